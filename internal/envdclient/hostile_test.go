package envdclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/filesystem"
)

// hostile serves every connection by act, which gets the first request's head read already. It
// returns a client with short limits.
func hostile(t *testing.T, act func(net.Conn)) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			conns.Go(func() {
				defer func() { _ = conn.Close() }()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					act(conn)
				}
			})
		}
	})
	c := New(dialTCP(l.Addr().String()), "secret")
	c.limits = limits{answer: time.Second, silence: time.Second, killWait: time.Second, grace: time.Second}
	t.Cleanup(func() {
		c.Close()
		_ = l.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return c
}

// say writes and then waits until the client hangs up.
func say(text string) func(net.Conn) {
	return func(conn net.Conn) {
		_, _ = io.WriteString(conn, text)
		_, _ = io.Copy(io.Discard, conn)
	}
}

// forever writes first, and then part until the client hangs up.
func forever(first, part string) func(net.Conn) {
	return func(conn net.Conn) {
		_, err := io.WriteString(conn, first)
		for err == nil {
			_, err = io.WriteString(conn, part)
		}
	}
}

// drip writes first, and then one byte of part at a time, slowly.
func drip(first, part string) func(net.Conn) {
	return func(conn net.Conn) {
		_, err := io.WriteString(conn, first)
		for i := 0; err == nil; i = (i + 1) % len(part) {
			_, err = conn.Write([]byte{part[i]})
			time.Sleep(20 * time.Millisecond) // the very slowness that is tested
		}
	}
}

func hangUp(text string) func(net.Conn) {
	return func(conn net.Conn) { _, _ = io.WriteString(conn, text) }
}

const (
	ok         = "HTTP/1.1 200 OK\r\n"
	okJSON     = ok + "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n"
	okStream   = ok + "Content-Type: application/connect+proto\r\nTransfer-Encoding: chunked\r\n\r\n"
	started    = "\x00\x00\x00\x00\x06" + "\x0a\x04\x0a\x02\x08\x07" // event.start.pid = 7
	stillAlive = "\x00\x00\x00\x00\x04" + "\x0a\x02\x22\x00"
)

func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// endOfStream is the last message of a Connect stream.
func endOfStream(json string) string {
	return string(binary.BigEndian.AppendUint32([]byte{2}, uint32(len(json)))) + json
}

// actors are what a hostile guest may do to any call.
func actors() map[string]func(net.Conn) {
	large := strings.Repeat("x", 60<<10)
	return map[string]func(net.Conn){
		"silence":            say(""),
		"hang up":            hangUp(""),
		"garbage":            say("\x00\xff garbage\r\n\r\n"),
		"endless garbage":    forever("", large),
		"endless header":     forever(ok, "X-Header: "+large[:1000]+"\r\n"),
		"one long header":    forever(ok+"X-Header: ", large),
		"dripping header":    drip(ok, "X-Header: y\r\n"),
		"endless 1xx":        forever("", "HTTP/1.1 103 Early Hints\r\n\r\n"),
		"half a status":      hangUp("HTTP/1.1 20"),
		"wrong type":         hangUp(ok + "Content-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"),
		"no content":         hangUp("HTTP/1.1 204 No Content\r\n\r\n"),
		"redirect":           hangUp("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
		"error of 1 GB":      forever("HTTP/1.1 500 Oops\r\nContent-Length: 1000000000\r\n\r\n", large),
		"endless error":      forever("HTTP/1.1 400 Oops\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(`{"message":"`+large)),
		"dripping error":     drip("HTTP/1.1 400 Oops\r\nContent-Length: 100000\r\n\r\n", "x"),
		"upgrade":            hangUp("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
		"truncated body":     hangUp(okJSON + "{"),
		"negative length":    say(ok + "Content-Length: -1\r\n\r\n"),
		"bad chunk":          say(okStream + "zzz\r\n"),
		"endless chunk line": forever(okStream+"1;", large),
		"bad trailer":        forever(okStream+"0\r\nX: ", large),
	}
}

// Every call gives a coded error in bounded time and memory, whatever the guest does.
func TestHostileGuest(t *testing.T) {
	calls := map[string]func(context.Context, *Client) error{
		"health":  func(ctx context.Context, c *Client) error { _, err := c.Health(ctx); return err },
		"metrics": func(ctx context.Context, c *Client) error { _, err := c.Metrics(ctx); return err },
		"init":    func(ctx context.Context, c *Client) error { return c.Init(ctx, Init{}) },
		"exec":    func(ctx context.Context, c *Client) error { return execAll(ctx, c) },
		"read":    readAll,
		"write": func(ctx context.Context, c *Client) error {
			_, err := c.WriteFile(ctx, "x", "", strings.NewReader("text"), unknownSize)
			return err
		},
		"unpack": func(ctx context.Context, c *Client) error { return c.Unpack(ctx, "x", "", strings.NewReader("text")) },
		"start": func(ctx context.Context, c *Client) error {
			_, err := c.Start(ctx, Spec{Command: Command{Cmd: "true"}})
			return err
		},
		"attach": attachAll,
		"list":   func(ctx context.Context, c *Client) error { _, err := c.Processes(ctx); return err },
		"signal": func(ctx context.Context, c *Client) error { return c.Signal(ctx, Selector{PID: 7}, 15) },
		"stat":   func(ctx context.Context, c *Client) error { _, err := c.Stat(ctx, "x", ""); return err },
		"folder": func(ctx context.Context, c *Client) error { _, err := c.List(ctx, "x", "", 1); return err },
		"chmod":  func(ctx context.Context, c *Client) error { return c.Chmod(ctx, "x", "", 0o644, false) },
		"watch": func(ctx context.Context, c *Client) error {
			w, err := c.Watch(ctx, "x", "", true)
			if err == nil {
				defer func() { _ = w.Close() }()
				_, err = w.Next()
			}
			return err
		},
		"port": dialAll,
	}
	// These have an answer that needs no body, or take any body for an answer.
	harmless := map[string]bool{
		"health/no content": true, "init/no content": true, "health/wrong type": true, "init/wrong type": true,
		"health/bad chunk": true, "health/truncated body": true, "init/bad chunk": true, "init/truncated body": true,
		"health/endless chunk line": true, "init/endless chunk line": true, "health/bad trailer": true, "init/bad trailer": true,
		"read/wrong type":  true,
		"chmod/no content": true, "chmod/wrong type": true, "chmod/bad chunk": true, "chmod/truncated body": true,
		"chmod/endless chunk line": true, "chmod/bad trailer": true,
		"port/upgrade": true, // which it then is
	}
	// Whether the answer or the end of the connection is seen first is chance.
	either := map[string]bool{
		"unpack/no content": true, "unpack/wrong type": true, "unpack/bad chunk": true,
		"unpack/truncated body": true, "unpack/endless chunk line": true, "unpack/bad trailer": true,
	}
	for actor, act := range actors() {
		for call, do := range calls {
			name := call + "/" + actor
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				peak := watchMemory(t)
				err := do(within(t), hostile(t, act))
				if (err == nil) != harmless[name] && !either[name] {
					t.Errorf("error %v", err)
				}
				var coded *models.Error
				if err != nil && (!errors.As(err, &coded) || len(coded.Message) > 4*maxText+10) {
					t.Errorf("error %v", err)
				}
				if grown := peak(); grown > 256<<20 { // of all parallel tests together
					t.Errorf("the heap grew by %d", grown)
				}
			})
		}
	}
}

func execAll(ctx context.Context, c *Client) error {
	e, err := c.Exec(ctx, Command{Cmd: "true"})
	if err != nil {
		return err
	}
	return finish(e).err
}

func attachAll(ctx context.Context, c *Client) error {
	a, err := c.Attach(ctx, Selector{PID: 7}, 0)
	for err == nil {
		_, err = a.Next()
	}
	if a != nil {
		_ = a.Close()
	}
	return err
}

func dialAll(ctx context.Context, c *Client) error {
	conn, err := c.DialPort(ctx, 80)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

func readAll(ctx context.Context, c *Client) error {
	f, err := c.ReadFile(ctx, "x", "")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(io.Discard, io.LimitReader(f, 1<<30))
	return err
}

// What a guest may do once a process has started, it cannot do for long either.
func TestHostileStream(t *testing.T) {
	first := okStream + chunk(started)
	for name, c := range map[string]struct {
		act  func(net.Conn)
		text string
	}{
		"silence":          {say(first), "does not answer"},
		"hang up":          {hangUp(first), "went away"},
		"truncated frame":  {hangUp(first + chunk("\x00\x00\x00\x00\x10abc")), "went away"},
		"frame of 4 GB":    {forever(first+chunk("\x00\xff\xff\xff\xff"), chunk(strings.Repeat("x", 60<<10))), ""}, // skipped for as long as the limit allows
		"dripping frame":   {drip(first+chunk("\x00\x00\x0f\xff\xff"), chunk("x")), "does not answer"},
		"garbage message":  {say(first + chunk("\x00\x00\x00\x00\x03\xff\xff\xff")), "went away"},
		"empty message":    {say(first + chunk("\x00\x00\x00\x00\x00")), "went away"},
		"compressed":       {say(first + chunk("\x01\x00\x00\x00\x01x")), "went away"},
		"a second start":   {say(first + chunk(started)), "went away"},
		"early end":        {say(first + chunk(endOfStream(`{}`)) + "0\r\n\r\n"), "went away"},
		"garbage end":      {say(first + chunk(endOfStream(`][`)) + "0\r\n\r\n"), "went away"},
		"an error":         {say(first + chunk(endOfStream(`{"error":{"code":"internal","message":"a\u0000b\nc"}}`)) + "0\r\n\r\n"), "a b c"},
		"an unknown error": {say(first + chunk(endOfStream(`{"error":{"code":"nonsense","message":"text"}}`)) + "0\r\n\r\n"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := hostile(t, c.act).Exec(within(t), Command{Cmd: "true"})
			if err != nil {
				t.Fatal(err)
			}
			r := finish(e)
			attached := attachAll(within(t), hostile(t, c.act))
			var coded *models.Error
			if !errors.As(r.err, &coded) || !strings.Contains(coded.Message, c.text) {
				t.Errorf("error %v, want one with %q", r.err, c.text)
			}
			text := strings.ReplaceAll(c.text, "went away", "broke")
			if !errors.As(attached, &coded) || !strings.Contains(coded.Message, text) {
				t.Errorf("attached: error %v, want one with %q", attached, text)
			}
		})
	}
}

// Keepalives keep a call alive, but not beyond its timeout.
func TestTimeoutThatTheGuestIgnores(t *testing.T) {
	c := hostile(t, func(conn net.Conn) {
		_, err := io.WriteString(conn, okStream+chunk(started))
		for err == nil {
			_, err = io.WriteString(conn, chunk(stillAlive))
			time.Sleep(10 * time.Millisecond) // slow enough not to fill buffers
		}
	})
	e, err := c.Exec(within(t), Command{Cmd: "true", Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, finish(e).err, models.Unavailable, "does not answer")
	ctx, cancel := context.WithCancel(within(t))
	if e, err = c.Exec(ctx, Command{Cmd: "true"}); err != nil {
		t.Fatal(err)
	}
	cancel() // the guest ignores the kill, too
	wantError(t, finish(e).err, models.Unavailable, "cancelled")
}

// A guest that never listens costs what the caller allows, and no more.
func TestGuestThatDoesNotListen(t *testing.T) {
	before := runtime.NumGoroutine()
	c := New(func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, "")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := c.Health(ctx)
	wantError(t, err, models.Deadline, "")
	c.limits.answer = 200 * time.Millisecond
	_, err = c.Metrics(within(t))
	wantError(t, err, models.Unavailable, "does not answer")
	c.Close()
	refuse := models.Errorf(models.Unavailable, "the VM is gone")
	gone := New(func(context.Context) (net.Conn, error) { return nil, refuse }, "")
	defer gone.Close()
	_, err = gone.Exec(within(t), Command{Cmd: "true"})
	wantError(t, err, models.Unavailable, "the VM is gone")
	eventually(t, func() error {
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Errorf("%d goroutines, %d before", n, before)
		}
		return nil
	})
}

// A guest that does not take an upload ends it.
func TestUploadThatIsNotTaken(t *testing.T) {
	c := hostile(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
		<-t.Context().Done()
	})
	_, err := c.WriteFile(within(t), "x", "", endless{}, unknownSize)
	wantError(t, err, models.Unavailable, "does not answer")
}

// The token goes nowhere but to the guest.
func TestTokenIsNotInErrors(t *testing.T) {
	c := hostile(t, hangUp("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"))
	_, err := c.Metrics(within(t))
	if err == nil || strings.Contains(fmt.Sprint(err), "secret") {
		t.Errorf("error %v", err)
	}
}

// TestAnswerOfNothings: a message of many empty parts is a hundred times as large in memory as on its way.
func TestAnswerOfNothings(t *testing.T) {
	for name, part := range map[string]string{"empty": "\x0a\x00", "hollow": "\x0a\x02\x0a\x00", "unknown": "\x7a\x00"} {
		nothings := strings.Repeat(part, (maxListing-100)/len(part))
		act := hangUp(fmt.Sprintf("%sContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n%s", ok, len(nothings), nothings))
		for call, do := range map[string]func(*Client) error{
			"folder": func(c *Client) error { _, err := c.List(within(t), "x", "", 1); return err },
			"list":   func(c *Client) error { _, err := c.Processes(within(t)); return err },
		} {
			peak := watchMemory(t)
			err := do(hostile(t, act))
			if grown := peak(); grown > 200<<20 {
				t.Errorf("%s, %s: the heap grew by %d MiB", call, name, grown>>20)
			}
			if name != "unknown" { // which is dropped
				wantError(t, err, models.Unavailable, "")
			}
		}
	}
}

// TestLongListing: as many files as maxListing has room for cost no more than is allowed.
func TestLongListing(t *testing.T) {
	entry := &pb.EntryInfo{
		Name: "some-file-of-an-ordinary-length.txt", Path: "/home/user/project/some/folder/some-file-of-an-ordinary-length.txt", Type: pb.FileType_FILE_TYPE_FILE,
		Size: 12345678, Mode: 0o644, Permissions: "-rw-r--r--", Owner: "user", Group: "user", ModifiedTime: timestamppb.Now(),
	}
	answer := &pb.ListDirResponse{Entries: slices.Repeat([]*pb.EntryInfo{entry}, maxListing/(proto.Size(entry)+3))}
	data, err := proto.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	var got pb.ListDirResponse
	if err := (boundedCodec{}).Unmarshal(data, &got); err != nil || len(got.GetEntries()) != len(answer.GetEntries()) {
		t.Errorf("%d of %d entries, %v", len(got.GetEntries()), len(answer.GetEntries()), err)
	}
}
