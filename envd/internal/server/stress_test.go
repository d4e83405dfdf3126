package server_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

func TestManyInARow(t *testing.T) {
	e := startDebug(t)
	e.output(command("echo", "warm")) // opens the connection
	before := measure(t)
	before.files++ // of the cgroup that is made ahead, perhaps in a moment
	for i := range 200 {
		want := fmt.Sprintf("%d\n", i)
		if got := e.output(command("echo", fmt.Sprint(i))); got != want {
			t.Fatalf("run %d printed %q", i, got)
		}
	}
	noMoreThan(t, before)
}

func TestManyAtOnce(t *testing.T) {
	e := startDebug(t)
	before := measure(t)
	var group sync.WaitGroup
	errs := make(chan error, 50)
	for i := range 50 {
		group.Go(func() {
			r, err := e.begin(shell(fmt.Sprintf("echo %d; sleep 0.0%d; exit %d", i, i%10, i)))
			if err != nil {
				errs <- err
				return
			}
			if res := r.finish(); res.end.GetExitCode() != int32(i) || res.stdout.String() != fmt.Sprintln(i) {
				errs <- fmt.Errorf("process %d: end %v, error %v, stdout %q", i, res.end, res.err, &res.stdout)
			}
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	e.http.CloseIdleConnections()
	noMoreThan(t, before)
}

// numbered returns size bytes whose every part is different.
func numbered(size int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%d\x00\xff\n", i)
	}
	return b.Bytes()[:size]
}

// Output arrives whole on both streams, whether the process, the ring or the caller is slowest.
func TestLargeOutput(t *testing.T) {
	e := startDebug(t)
	const size = 10 << 20
	want := numbered(size)
	path := filepath.Join(folder(t), "data")
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
	res := e.run(shell("cat " + path + " & cat " + path + " >&2; wait"))
	for name, got := range map[string][]byte{"stdout": res.stdout.Bytes(), "stderr": res.stderr.Bytes()} {
		if len(got) != size || sha256.Sum256(got) != sha256.Sum256(want) {
			t.Errorf("%s: %d bytes arrived, or others", name, len(got))
		}
	}
}

// A caller that does not read makes the process wait, and loses nothing.
func TestSlowReader(t *testing.T) {
	e := startDebug(t)
	const size = 40 << 20 // more than socket buffers hold
	marker := filepath.Join(e.home, "written")
	r := e.mustBegin(shell(fmt.Sprintf("head -c %d /dev/zero; echo $$ >%s", size, marker)))
	throttled := func() bool { // blocked in its write, with the pipe full
		_, err := os.Stat(marker)
		return os.IsNotExist(err)
	}
	eventually(t, func() error { return waiting(int(r.pid)) })
	if !throttled() {
		t.Error("the process wrote everything though nobody read")
	}
	if res := r.finish(); res.err != nil || res.stdout.Len() != size {
		t.Errorf("%d bytes arrived, error %v", res.stdout.Len(), res.err)
	}
	readPID(t, marker)
}

// waiting checks that a child of the process waits in a write to a pipe (wchan of proc(5)).
func waiting(parent int) error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(children)) {
		syscall, err := os.ReadFile("/proc/" + pid + "/syscall")
		if err == nil && strings.HasPrefix(string(syscall), "1 0x1 ") { // write(1, on x86-64
			return nil
		}
	}
	return fmt.Errorf("no child of %d waits in a write", parent)
}

// attach connects to a process with our extensions, from an offset on, and checks the first event.
func (e *envd) attach(pid uint32, offset int64) *connect.ServerStreamForClient[pb.ConnectResponse] {
	e.Helper()
	req := connect.NewRequest(&pb.ConnectRequest{Process: byPID(pid), Offset: &offset})
	req.Header().Set("Wrenn-Extensions", "1")
	stream, err := e.rpc.Connect(e.Context(), req)
	if err != nil {
		e.Fatal(err)
	}
	start := func() *pb.ProcessEvent_StartEvent { return stream.Msg().GetEvent().GetStart() }
	if !stream.Receive() || start().GetPid() != pid || offset >= 0 && start().GetOffset() != uint64(offset) {
		e.Fatalf("first event %v, error %v", stream.Msg(), stream.Err())
	}
	return stream
}

// A process goes on after its caller has gone, and whoever attaches next gets what it said since.
func TestAttachAfterDisconnect(t *testing.T) {
	e := startDebug(t)
	trigger := filepath.Join(e.home, "trigger")
	r := e.mustBegin(shell("while [ ! -e " + trigger + " ]; do sleep 0.01; done; echo late; while [ ! -e " + trigger + "2 ]; do sleep 0.01; done; exit 5"))
	r.cancel()
	for r.stream.Receive() {
	}
	if err := os.WriteFile(trigger, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	stream := e.attach(r.pid, 0)
	if !stream.Receive() || string(stream.Msg().GetEvent().GetData().GetStdout()) != "late\n" {
		t.Fatalf("second event %v, error %v", stream.Msg(), stream.Err())
	}
	if err := os.WriteFile(trigger+"2", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if !stream.Receive() || stream.Msg().GetEvent().GetEnd().GetExitCode() != 5 || stream.Receive() || stream.Err() != nil {
		t.Fatalf("last event %v, error %v", stream.Msg(), stream.Err())
	}
}

// Endless output of a process that nobody attends takes bounded memory and is reported as lost.
func TestUnattendedOutput(t *testing.T) {
	e := startDebug(t)
	written := filepath.Join(e.home, "written")
	r := e.mustBegin(shell("head -c 3000000 /dev/zero; echo $$ >" + written + "; exec sleep 1000"))
	r.cancel()
	for r.stream.Receive() {
	}
	readPID(t, written)
	stream := e.attach(r.pid, 0)
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	gap := stream.Msg().GetEvent().GetGap().GetBytes()
	if gap < 3000000-256<<10 || gap >= 3000000 {
		t.Errorf("the first event is %v", stream.Msg())
	}
	if err := e.signal(r.pid, 9); err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
		gap += uint64(len(stream.Msg().GetEvent().GetData().GetStdout()))
	}
	if gap != 3000000 || stream.Err() != nil {
		t.Errorf("%d bytes were sent or told, error %v", gap, stream.Err())
	}
}

// Connections beyond the limit are closed, and the server goes on.
func TestTooManyConnections(t *testing.T) {
	e := startDebug(t)
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			_ = conn.Close()
		}
	}()
	for range 1100 {
		conn, err := net.Dial("tcp", e.addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	answered := func(conn net.Conn) error {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	if err := answered(open[1000]); err != nil {
		t.Errorf("a connection within the limit: %v", err)
	}
	if answered(open[1099]) == nil {
		t.Error("a connection beyond the limit was answered")
	}
	for _, conn := range open {
		_ = conn.Close()
	}
	eventually(t, func() error {
		resp, err := e.http.Get(e.url + "/health")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}
