package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// stoppable has r's requests go to a control plane that is served as by its process, until stop has it end; what that returns waits for it, and has them go to another one.
func (r *rig) stoppable(drain time.Duration) (stop func() (ended func())) {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	context.AfterFunc(ctx, r.api.End)
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, r.handler, drain, r.logger) }()
	r.server.URL = "http://" + l.Addr().String()
	return func() func() {
		cancel()
		return func() {
			if err := <-served; err != nil {
				r.t.Error(err)
			}
			other := httptest.NewServer(New(r.api.Options).Handler())
			r.t.Cleanup(other.Close)
			r.server.URL = other.URL
		}
	}
}

// stream begins to read a stream of events.
func (r *rig) stream(method, path, body string) *bufio.Reader {
	r.t.Helper()
	resp, err := http.DefaultClient.Do(r.request(method, path, body, "Accept", eventStream))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = resp.Body.Close() })
	return bufio.NewReader(resp.Body)
}

// event returns the next event of a stream, or no name at its end. One that breaks ends the test.
func (r *rig) event(from *bufio.Reader) sseEvent {
	r.t.Helper()
	for {
		var block strings.Builder
		for line := ""; line != "\n"; block.WriteString(line) {
			var err error
			if line, err = from.ReadString('\n'); err == io.EOF && block.Len() == 0 {
				return sseEvent{}
			} else if err != nil {
				r.t.Fatal(err)
			}
		}
		if all := eventsOf(r.t, []byte(block.String())); len(all) > 0 {
			return all[0]
		}
	}
}

// isTold fails the test unless a stream ends with the word that its control plane stops.
func (r *rig) isTold(what string, from *bufio.Reader) {
	r.t.Helper()
	if e := r.event(from); e.name != "error" || e.data["code"] != string(models.Unavailable) || !strings.Contains(fmt.Sprint(e.data["message"]), "stopping") {
		r.t.Errorf("%s: the last event is %+v", what, e)
	}
	if e := r.event(from); e.name != "" {
		r.t.Errorf("%s: then comes %+v", what, e)
	}
}

func (c *terminalClient) isTold(what string) {
	c.t.Helper()
	if m := c.next(); m.Type != "error" || m.Code != string(models.Unavailable) {
		c.t.Errorf("%s: the last message is %+v", what, m)
	}
	if status := c.closed(); status != websocket.StatusServiceRestart {
		c.t.Errorf("%s: then it is closed with %v", what, status)
	}
}

// TestStopAndGoOn: what would last for as long as its client likes holds up no end of a control plane, is told that it stops, and goes on at another one where it ended.
func TestStopAndGoOn(t *testing.T) {
	r := newRig(t, Limits{})
	stop := r.stoppable(time.Hour)
	sb := r.create().ID
	process, _ := r.process(sb, `{"shell":"printf 0123; read line; printf 456", "stdin": true}`)
	output := r.stream("GET", process+"/output", "")
	if e := r.event(output); e.name != "started" {
		t.Fatalf("it begins with %+v", e)
	}
	first := r.event(output)
	watch := r.stream("GET", "/v1/sandboxes/"+sb+"/watch?path="+t.TempDir(), "")
	if e := r.event(watch); e.name != "watching" {
		t.Fatalf("it begins with %+v", e)
	}
	terminal := r.openTerminal(sb, url.Values{"cmd": {echoing}})
	terminal.until("ready")
	ended := stop()
	r.isTold("output", output)
	r.isTold("watch", watch)
	terminal.isTold("terminal")
	ended()

	if a := r.call("POST", process+"/stdin?close=true", "x\n", "Content-Type", "application/octet-stream"); a.status >= 300 {
		t.Fatalf("input at another control plane: %d %s", a.status, a.body)
	}
	if text, _ := r.output(fmt.Sprintf("%s/output?offset=%d", process, first.id)); first.bytes(t)+text["stdout"] != "0123456" {
		t.Errorf("its output is %q, and then %q", first.bytes(t), text)
	}
	again := r.openTerminal(sb, url.Values{"id": {terminal.id}, "offset": {fmt.Sprint(terminal.offset)}})
	again.send(websocket.MessageBinary, "back")
	again.until("back")
}

// TestStopAndCutOff: what cannot go on elsewhere has until the drain is over, and then is told why it ends.
func TestStopAndCutOff(t *testing.T) {
	r := newRig(t, Limits{})
	stop := r.stoppable(300 * time.Millisecond)
	sb := r.create().ID
	stream := r.stream("POST", "/v1/sandboxes/"+sb+"/exec", `{"shell":"printf begun; sleep 1000"}`)
	for r.event(stream).name != "stdout" {
	}
	answered := make(chan answer, 1)
	go func() { answered <- r.plain("POST", "/v1/sandboxes/"+sb+"/exec", `{"shell":"sleep 1000"}`) }()
	terminal := r.openTerminal(sb, url.Values{"cmd": {echoing}, "detach": {"false"}})
	terminal.until("ready")
	tcp := r.dialTCP(sb, tcpServer(t, func(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }))
	tcp.send(websocket.MessageBinary, "there")
	tcp.until("there")
	r.eventually("both programs run", func() bool {
		return strings.Count(string(r.call("GET", "/v1/sandboxes/"+sb+"/processes", "").body), "sleep 1000") >= 2
	})
	ended := stop()
	r.isTold("exec", stream)
	terminal.isTold("terminal")
	tcp.isTold("TCP")
	ended()
	if e := decoded[errorAnswer](t, <-answered, http.StatusServiceUnavailable); !strings.Contains(e.Error.Message, "stopping") || e.Error.Hint == "" {
		t.Errorf("a program that was cut off: %+v", e)
	}
}

// TestStopFinishesTransfers: files that are under way when a control plane begins to stop arrive whole.
func TestStopFinishesTransfers(t *testing.T) {
	r := newRig(t, Limits{})
	stop := r.stoppable(time.Minute)
	sb, dir := r.create().ID, t.TempDir()
	half := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB: more than lies on the way
	down := filepath.Join(dir, "down")
	if err := os.WriteFile(down, []byte(half+half), 0o600); err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r.request("GET", "/v1/sandboxes/"+sb+"/files?path="+down, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, len(half))
	if _, err := io.ReadFull(resp.Body, got); err != nil {
		t.Fatal(err)
	}
	body, rest := io.Pipe()
	up := r.request("PUT", "/v1/sandboxes/"+sb+"/files?path="+filepath.Join(dir, "up"), "", "Content-Type", "application/octet-stream")
	up.Body, up.ContentLength = body, int64(2*len(half))
	answered := make(chan answer, 1)
	go func() {
		_, a := r.do(up)
		answered <- a
	}()
	if _, err := io.WriteString(rest, half); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is being written", func() bool {
		entries, err := os.ReadDir(dir)
		return err == nil && len(entries) == 2
	})

	ended := stop()
	r.eventually("nobody is let in any more", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.server.URL, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	if more, err := io.ReadAll(resp.Body); err != nil || string(got)+string(more) != half+half {
		t.Errorf("%d bytes came down, and %v", len(got)+len(more), err)
	}
	if _, err := io.WriteString(rest, half); err != nil {
		t.Fatal(err)
	}
	_ = rest.Close()
	if a := <-answered; a.status >= 300 {
		t.Errorf("the upload: %d %s", a.status, a.body)
	}
	ended()
	if there, err := os.ReadFile(filepath.Join(dir, "up")); err != nil || string(there) != half+half {
		t.Errorf("%d bytes came up, and %v", len(there), err)
	}
}
