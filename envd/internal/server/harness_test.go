package server_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
	"github.com/wrenn-sandbox/wrenn/envd/internal/server"
	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
)

// patience bounds every wait; it is long because the machine may be busy.
const patience = 60 * time.Second

// The accounts of the tests: tester is in the group 54400 too.
const (
	testerUID = 54321
	testerGID = 54322
	extraGID  = 54400
)

// reaper is the test process's only one, as envd's. Nothing here may wait for a child otherwise.
var (
	reaper  *reap.Reaper
	cgroups string // the folder of its cgroups, empty without
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	keepInherited()
	cgroups = makeCgroup()
	defer removeCgroup(cgroups)
	var err error
	if reaper, err = reap.New(reap.Options{Cgroup: cgroups}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer reaper.Close()
	return m.Run()
}

// keepInherited keeps the files that the test process was started with from its children, so that
// what those have is envd's doing.
func keepInherited() {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// makeCgroup makes a cgroup v2 folder, or returns "" where that is impossible.
func makeCgroup() string {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "cgroup2" {
			if dir, err := os.MkdirTemp(fields[1], "wrenn-server-test-"); err == nil {
				return dir
			}
		}
	}
	return ""
}

func removeCgroup(dir string) {
	if dir == "" {
		return
	}
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	below, _ := filepath.Glob(filepath.Join(dir, "p*"))
	for _, path := range append(below, dir) {
		for range 500 {
			if err := syscall.Rmdir(path); err == nil || err == syscall.ENOENT {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// envd is a server under test and a client of it.
type envd struct {
	*testing.T
	server *server.Server
	addr   string
	url    string
	http   *http.Client
	rpc    processconnect.ProcessClient
	home   string // tester's
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// folder makes a folder that every user can enter.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wrenn-envd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// accounts writes an account database with root and tester.
func accounts(t testing.TB) (user.Database, string) {
	t.Helper()
	dir := folder(t)
	home := filepath.Join(dir, "home")
	db := user.Database{Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group")}
	passwd := fmt.Sprintf("root:x:0:0:root:/root:/bin/bash\ntester:x:%d:%d::%s:/bin/sh\n", testerUID, testerGID, home)
	group := fmt.Sprintf("root:x:0:\ntester:x:%d:\nextra:x:%d:someone,tester\nother:x:54500:someone\n", testerGID, extraGID)
	for path, text := range map[string]string{db.Passwd: passwd, db.Group: group} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, testerUID, testerGID); err != nil {
		t.Fatal(err)
	}
	return db, home
}

// start serves with opts, which it completes, and ends everything with the test.
func start(t *testing.T, opts server.Options) *envd {
	t.Helper()
	testlane.NeedRoot(t)
	e := &envd{T: t}
	opts.Reaper, opts.Version = reaper, "1.2.3-test"
	opts.Users, e.home = accounts(t)
	e.server = server.New(opts)
	l := listen(t)
	served := make(chan error, 1)
	go func() { served <- e.server.Serve(l) }()
	e.addr, e.url = l.Addr().String(), "http://"+l.Addr().String()
	e.http = &http.Client{Transport: &http.Transport{}}
	e.rpc = processconnect.NewProcessClient(e.http, e.url)
	t.Cleanup(func() {
		e.http.CloseIdleConnections()
		if err := e.server.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return e
}

// startDebug serves without a token, and with tester as the default user.
func startDebug(t *testing.T) *envd {
	t.Helper()
	e := start(t, server.Options{Debug: true})
	e.init(`{"defaultUser":"tester"}`)
	return e
}

func (e *envd) init(body string) {
	e.Helper()
	if status, text := e.request("POST", "/init", body, nil); status != http.StatusNoContent {
		e.Fatalf("init: %d %s", status, text)
	}
}

// request makes a plain request and returns its status and body.
func (e *envd) request(method, path, body string, header http.Header) (int, string) {
	e.Helper()
	req, err := http.NewRequest(method, e.url+path, strings.NewReader(body))
	if err != nil {
		e.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := e.http.Do(req)
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		e.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// running is one started process as a client sees it.
type running struct {
	*envd
	cancel context.CancelFunc
	stream *connect.ServerStreamForClient[pb.StartResponse]
	pid    uint32
}

// result is what a process left behind.
type result struct {
	stdout, stderr bytes.Buffer
	pty            bytes.Buffer
	end            *pb.ProcessEvent_EndEvent
	keepalives     int
	err            error
}

func shell(script string) *pb.StartRequest {
	return command("/bin/sh", "-c", script)
}

func command(cmd string, args ...string) *pb.StartRequest {
	noInput := false
	return &pb.StartRequest{Process: &pb.ProcessConfig{Cmd: cmd, Args: args}, Stdin: &noInput}
}

func withInput(r *pb.StartRequest) *pb.StartRequest {
	r.Stdin = nil // the protocol's default is to have input
	return r
}

// begin starts a process with our extensions and reads its start event. header is pairs of names and values.
func (e *envd) begin(msg *pb.StartRequest, header ...string) (*running, error) {
	e.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	req := connect.NewRequest(msg)
	req.Header().Set("Wrenn-Extensions", "1")
	for i := 0; i < len(header); i += 2 {
		req.Header().Set(header[i], header[i+1])
	}
	// The client library would send the context's deadline as the process's.
	stream, err := e.rpc.Start(withoutDeadline{ctx}, req)
	if err != nil {
		cancel()
		return nil, err
	}
	r := &running{envd: e, cancel: cancel, stream: stream}
	if !stream.Receive() {
		cancel()
		return nil, stream.Err()
	}
	if r.pid = stream.Msg().GetEvent().GetStart().GetPid(); r.pid == 0 {
		e.Fatalf("the first event is %v", stream.Msg())
	}
	e.Cleanup(cancel)
	return r, nil
}

// withoutDeadline is a context that ends like its parent but does not say when.
type withoutDeadline struct{ context.Context }

func (withoutDeadline) Deadline() (time.Time, bool) { return time.Time{}, false }

func (e *envd) mustBegin(msg *pb.StartRequest, header ...string) *running {
	e.Helper()
	r, err := e.begin(msg, header...)
	if err != nil {
		e.Fatal(err)
	}
	return r
}

// finish reads the rest of the stream.
func (r *running) finish() *result {
	r.Helper()
	defer r.cancel()
	res := &result{}
	for r.stream.Receive() {
		event := r.stream.Msg().GetEvent()
		res.stdout.Write(event.GetData().GetStdout())
		res.stderr.Write(event.GetData().GetStderr())
		res.pty.Write(event.GetData().GetPty())
		if event.GetKeepalive() != nil {
			res.keepalives++
		}
		if event.GetEnd() != nil {
			res.end = event.GetEnd()
		}
	}
	res.err = r.stream.Err()
	return res
}

// run runs a process to its end, which must be an end event.
func (e *envd) run(msg *pb.StartRequest, header ...string) *result {
	e.Helper()
	res := e.mustBegin(msg, header...).finish()
	if res.err != nil || res.end == nil {
		e.Fatalf("end %v, error %v, stderr %q", res.end, res.err, res.stderr.String())
	}
	return res
}

// output runs a script as tester and returns what it prints.
func (e *envd) output(msg *pb.StartRequest, header ...string) string {
	e.Helper()
	res := e.run(msg, header...)
	if res.end.GetExitCode() != 0 || res.stderr.Len() > 0 {
		e.Fatalf("end %v, stderr %q", res.end, res.stderr.String())
	}
	return res.stdout.String()
}

func (e *envd) signal(pid uint32, sig int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := e.rpc.SendSignal(ctx, connect.NewRequest(&pb.SendSignalRequest{Process: byPID(pid), Signal: pb.Signal(sig)}))
	return err
}

func byPID(pid uint32) *pb.ProcessSelector {
	return &pb.ProcessSelector{Selector: &pb.ProcessSelector_Pid{Pid: pid}}
}

func wantCode(t *testing.T, err error, code connect.Code, text string) {
	t.Helper()
	if connect.CodeOf(err) != code || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("error %v, want %s with %q", err, code, text)
	}
}

// eventually repeats check until it succeeds or patience runs out.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// alive reports whether a process runs, zombies included.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func gone(pid int) func() error {
	return func() error {
		if alive(pid) {
			return fmt.Errorf("process %d is still there", pid)
		}
		return nil
	}
}

// readPID waits until a file holds a pid.
func readPID(t testing.TB, path string) int {
	t.Helper()
	pid := 0
	eventually(t, func() error {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err
	})
	return pid
}

func killPID(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

func (e *envd) uploadEmpty(path string) error { return os.WriteFile(path, nil, 0o644) }
