package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const greeting = `{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":["oob"]}}` + "\r\n"

// server plays QEMU: it sends opening, then what answer makes of each request.
type server struct {
	opening string
	answer  func(r request) string
}

// serve returns the client's end. Everything ends with the test.
func (s server) serve(t *testing.T) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	t.Cleanup(func() { ours.Close(); theirs.Close(); <-ended })
	go func() {
		defer close(ended)
		defer theirs.Close()
		if _, err := io.WriteString(theirs, s.opening); err != nil {
			return
		}
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			var r request
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				t.Errorf("the client sent %q", lines.Text())
				return
			}
			if _, err := io.WriteString(theirs, s.answer(r)); err != nil {
				return
			}
		}
	}()
	return ours
}

func ok(r request) string { return fmt.Sprintf(`{"return":{},"id":%d}`+"\r\n", r.ID) }

func connect(t *testing.T, s server) *Client {
	t.Helper()
	client, err := New(t.Context(), s.serve(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestExecute(t *testing.T) {
	client := connect(t, server{greeting, func(r request) string {
		if r.Execute == "query-status" {
			return fmt.Sprintf(`{"timestamp":{"seconds":1},"event":"RESUME"}`+"\n"+`{"id":%d,"return":{"running":true,"status":"running"}}`+"\n", r.ID)
		}
		if r.Execute == "echo" {
			text, _ := json.Marshal(r.Arguments)
			return fmt.Sprintf(`{"return":%s,"id":%d}`+"\n", text, r.ID)
		}
		return ok(r)
	}})
	var status struct{ Status string }
	if err := client.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("status %q, %v", status.Status, err)
	}
	var echo map[string]int
	if err := client.Execute(t.Context(), "echo", map[string]int{"x": 1}, &echo); err != nil || echo["x"] != 1 {
		t.Errorf("echo %v, %v", echo, err)
	}
	if event := <-client.Events(); event.Name != "RESUME" {
		t.Errorf("event %+v", event)
	}
}

func TestError(t *testing.T) {
	client := connect(t, server{greeting, func(r request) string {
		if r.Execute == "qmp_capabilities" {
			return ok(r)
		}
		return fmt.Sprintf(`{"id":%d,"error":{"class":"CommandNotFound","desc":"The command x has not been found"}}`+"\n", r.ID)
	}})
	var refused *Error
	err := client.Execute(t.Context(), "x", nil, nil)
	if !errors.As(err, &refused) || refused.Class != "CommandNotFound" || !strings.Contains(err.Error(), "has not been found") {
		t.Errorf("error %v", err)
	}
}

// TestOutOfOrder answers pairs of commands in reverse.
func TestOutOfOrder(t *testing.T) {
	var kept string
	client := connect(t, server{greeting, func(r request) string {
		answer := fmt.Sprintf(`{"return":{"n":%d},"id":%d}`+"\n", r.ID, r.ID)
		if r.Execute == "qmp_capabilities" {
			return answer
		}
		if kept == "" {
			kept = answer
			return ""
		}
		answer, kept = answer+kept, ""
		return answer
	}})
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if err := client.Execute(t.Context(), "x", nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// TestHostile sends what QEMU never would. The client must neither hang nor grow.
func TestHostile(t *testing.T) {
	for name, opening := range map[string]string{
		"nothing":           "",
		"no JSON":           "hello\n",
		"endless line":      `{"QMP":"` + strings.Repeat("x", 2*maxLine),
		"deep nesting":      strings.Repeat("[", 100_000) + "\n",
		"half a greeting":   `{"QMP":`,
		"wrong types":       `{"QMP":{},"id":"x","event":7}` + "\n",
		"negative id":       `{"return":{},"id":-1}` + "\n",
		"answer to nobody":  `{"return":{},"id":99}` + "\n",
		"greeting as array": `[1,2]` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = io.WriteString(theirs, opening)
				theirs.Close()
			}()
			if _, err := New(ctx, ours); !errors.Is(err, ErrClosed) {
				t.Errorf("error %v, want ErrClosed", err)
			}
			<-sent
		})
	}
}

// TestHostileAnswers repeats answers and greetings after a good beginning.
func TestHostileAnswers(t *testing.T) {
	client := connect(t, server{greeting, func(r request) string {
		return strings.Repeat(ok(r)+greeting+`{"event":"FLOOD","data":{"n":1}}`+"\n"+"\n \n", 3*maxEvents)
	}})
	for range 3 {
		if err := client.Execute(t.Context(), "x", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	n := 0
	for range client.Events() {
		n++
	}
	if n == 0 || n > maxEvents {
		t.Errorf("%d events were kept, want up to %d", n, maxEvents)
	}
}

func TestWrongResult(t *testing.T) {
	client := connect(t, server{greeting, ok})
	var number int
	if err := client.Execute(t.Context(), "x", nil, &number); err == nil {
		t.Error("an object was decoded into a number")
	}
	if err := client.Execute(t.Context(), "x", make(chan int), nil); err == nil {
		t.Error("arguments that are no JSON were sent")
	}
	if err := client.Execute(t.Context(), "x", nil, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestSilence(t *testing.T) {
	before := runtime.NumGoroutine()
	client := connect(t, server{greeting, func(r request) string {
		if r.Execute == "qmp_capabilities" {
			return ok(r)
		}
		return ""
	}})
	failed := make(chan error, 1)
	execute := func(ctx context.Context) {
		go func() { failed <- client.Execute(ctx, "x", nil, nil) }()
		for !client.isWaiting() && len(failed) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	ctx, cancel := context.WithCancel(t.Context()) // not a deadline, which might end the writing too, and so the connection
	execute(ctx)
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("without an answer: %v", err)
	}
	execute(context.Background())
	client.Close()
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("closed while waiting: %v", err)
	}
	if err := client.Execute(t.Context(), "x", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	<-client.Done()
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > before+1; time.Sleep(time.Millisecond) { // the server's
		if time.Now().After(deadline) {
			t.Fatal("goroutines are left")
		}
	}
}

func (c *Client) isWaiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting) > 0
}

func TestNoGreeting(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, ours); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if _, err := ours.Write(nil); err == nil {
		t.Error("the connection was left open")
	}
}

// TestNobodyReads holds that a peer which takes nothing blocks a command until its context ends, and no longer.
func TestNobodyReads(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.WriteString(theirs, greeting) }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, ours); err == nil {
		t.Error("no error")
	}
}

// FuzzClient: whatever QEMU says, a command ends, and so does the connection.
func FuzzClient(f *testing.F) {
	f.Add([]byte(greeting + `{"return":{},"id":1}` + "\n" + `{"return":{},"id":2}` + "\n"))
	f.Add([]byte(greeting + `{"error":{"class":"x","desc":"y"},"id":1}` + "\n" + `{"event":"STOP","data":{}}` + "\n"))
	f.Add([]byte(`{"QMP":null,"return":[],"event":""}` + "\n\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		go func() {
			defer theirs.Close()
			_, _ = theirs.Write(said)
		}()
		client, err := New(t.Context(), ours)
		if err != nil {
			ours.Close()
			return
		}
		_ = client.Execute(t.Context(), "stop", nil, &struct{ Status string }{})
		client.Close()
		<-client.Done()
	})
}
