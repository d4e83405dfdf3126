package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// upTest runs `wrenn up` with stand-ins on a data folder of its own.
type upTest struct {
	t    *testing.T
	bin  string
	data string
}

func newUpTest(t *testing.T) *upTest {
	t.Helper()
	testlane.NeedRoot(t)
	dir, err := os.MkdirTemp("", "up-") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // the databases' user passes through
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(netns.Delete(filepath.Join(dir, "data", "netns")), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	u := &upTest{t: t, bin: filepath.Join(dir, "bin"), data: filepath.Join(dir, "data")}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{u.bin, filepath.Join(dir, "images")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"wrenn", "host-agent", "control-plane"} {
		u.install(self, filepath.Join(u.bin, name))
	}
	return u
}

// install gives the test binary another name.
func (u *upTest) install(self, path string) {
	u.t.Helper()
	if os.Link(self, path) == nil {
		return
	}
	from, err := os.Open(self)
	if err != nil {
		u.t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		u.t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		u.t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		u.t.Fatal(err)
	}
}

func (u *upTest) diary() string {
	b, err := os.ReadFile(u.data + ".diary")
	if err != nil && !os.IsNotExist(err) {
		u.t.Fatal(err)
	}
	return string(b)
}

// started is a running `wrenn up`.
type started struct {
	*upTest
	cmd            *exec.Cmd
	done           chan struct{} // closed once it has ended
	err            error         // how it ended
	mu             sync.Mutex    // guards the buffers
	stdout, stderr bytes.Buffer
}

// writer lets the test read what the program is still writing.
type writer struct {
	s  *started
	to *bytes.Buffer
}

func (w writer) Write(b []byte) (int, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.to.Write(b)
}

func (s *started) said(b *bytes.Buffer) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return b.String()
}

// noDatabases spares a test the databases.
var noDatabases = []string{"--postgres", "postgres://nowhere", "--redis", "redis://nowhere"}

// start runs `wrenn up` with environment entries (up to the first argument that is none) and arguments.
func (u *upTest) start(args ...string) *started {
	u.t.Helper()
	s := &started{upTest: u, done: make(chan struct{})}
	env := append(os.Environ(), diary+"="+u.data+".diary", "GORACE="+noRaceSleep, "WRENN_API_KEY=wrn_foreign", "WRENN_URL=http://foreign")
	for len(args) > 0 && regexp.MustCompile(`^[A-Z_]+=`).MatchString(args[0]) {
		env, args = append(env, args[0]), args[1:]
	}
	all := append([]string{"up", "--data", u.data, "--listen", "127.0.0.1:0", "--kernel", u.bin, "--images", u.bin, "--stop-timeout", "1m"}, args...)
	s.cmd = exec.Command(filepath.Join(u.bin, "wrenn"), all...)
	s.cmd.Env = env
	s.cmd.Stdout, s.cmd.Stderr = writer{s, &s.stdout}, writer{s, &s.stderr}
	if err := s.cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	go func() {
		defer close(s.done)
		s.err = s.cmd.Wait()
	}()
	u.t.Cleanup(s.end)
	return s
}

// end cleans up after a test that failed: in order if possible. Otherwise it has ended already.
func (s *started) end() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(time.Minute, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	<-s.done
}

// wait waits for the end and checks the exit status.
func (s *started) wait(want int) {
	s.t.Helper()
	timer := time.AfterFunc(3*time.Minute, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	<-s.done
	got := 0
	var exit *exec.ExitError
	if errors.As(s.err, &exit) {
		got = exit.ExitCode()
	} else if s.err != nil {
		s.t.Fatal(s.err)
	}
	if got != want {
		s.t.Errorf("exit status %d, not %d; it said:\n%s%s\ndiary:\n%s", got, want, s.stdout.String(), s.stderr.String(), s.diary())
	}
}

// until waits for something to happen.
func (s *started) until(what string, happened func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if child.Poll(ctx, happened) != nil {
		s.t.Fatalf("it never came to this: %s; it said:\n%s%s\ndiary:\n%s", what, s.said(&s.stdout), s.said(&s.stderr), s.diary())
	}
}

func (s *started) untilReady() {
	s.t.Helper()
	s.until("ready", func() bool { return strings.Contains(s.said(&s.stdout), "Wrenn is ready") })
}

func (s *started) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// pidsOf are the processes that the diary says served under a name.
func (u *upTest) pidsOf(name string) []int {
	var pids []int
	for _, m := range regexp.MustCompile(`(?m)^`+name+` serves as (\d+)$`).FindAllStringSubmatch(u.diary(), -1) {
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			u.t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// wantNothingLeft checks that no server runs any more and nothing but data is left.
func (u *upTest) wantNothingLeft() {
	u.t.Helper()
	for _, pid := range append(u.pidsOf("agent"), u.pidsOf("control-plane")...) {
		if exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe"); err == nil && strings.HasPrefix(exe, u.bin) {
			u.t.Errorf("process %d still runs: %s", pid, exe)
		}
	}
	for _, gone := range []string{"up", "up.json", "netns", "databases/run"} {
		if _, err := os.Lstat(filepath.Join(u.data, gone)); !os.IsNotExist(err) {
			u.t.Errorf("%s is left (%v)", gone, err)
		}
	}
}

// wantDiary checks that lines that match the patterns are in the diary in this order.
func (u *upTest) wantDiary(patterns ...string) {
	u.t.Helper()
	rest := u.diary()
	for _, p := range patterns {
		at := regexp.MustCompile(`(?m)^` + p).FindStringIndex(rest)
		if at == nil {
			u.t.Errorf("the diary lacks %q, or in this order:\n%s", p, u.diary())
			return
		}
		rest = rest[at[1]:]
	}
}
