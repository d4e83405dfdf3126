package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
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

	"github.com/wrenn-sandbox/wrenn/internal/devstack"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
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
		if err := os.RemoveAll(dir); err != nil {
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
	mu             sync.Mutex // guards the buffers
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
	s := &started{upTest: u}
	env := append(os.Environ(), diary+"="+u.data+".diary", "WRENN_API_KEY=wrn_foreign", "WRENN_URL=http://foreign")
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
	u.t.Cleanup(func() { _ = s.cmd.Process.Kill() }) // it has ended, unless the test failed
	return s
}

// wait waits for the end and checks the exit status.
func (s *started) wait(want int) {
	s.t.Helper()
	timer := time.AfterFunc(3*time.Minute, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	err := s.cmd.Wait()
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		s.t.Fatal(err)
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

func TestUpRunsACommandAndEndsInOrder(t *testing.T) {
	u := newUpTest(t)
	s := u.start(append(noDatabases, "--", "sh", "-c", `echo "$WRENN_URL $WRENN_API_KEY"; exit 5`)...)
	s.wait(5)
	if !regexp.MustCompile(`^http://127\.0\.0\.1:\d+ ` + fakeKey + "\n$").MatchString(s.stdout.String()) {
		t.Errorf("the command said %q", s.stdout.String())
	}
	if strings.Contains(s.stderr.String(), "last words") {
		t.Errorf("the parts' logs are shown beside a command:\n%s", s.stderr.String())
	}
	flags := " --data " + u.data + " --listen unix://" + u.data + "/agent.sock --kernel " + u.bin + " --images " + u.bin +
		" --driver auto --volume auto --subnet 10.0.0.0/16$"
	u.wantDiary("agent serve"+flags, "control-plane serve$", "control-plane destroys sb-00000001$", "control-plane got terminated$",
		"agent got terminated$", "agent purge"+flags)
	u.wantDiary("control-plane seed --key-file " + u.data + "/dev-key$")
	if strings.Contains(u.diary(), "from outside") {
		t.Errorf("a foreign key or URL was passed on:\n%s", u.diary())
	}
	u.wantNothingLeft()
}

func TestUpWithItsOwnDatabases(t *testing.T) {
	if _, err := devstack.FindBinaries(); err != nil {
		testlane.Missing(t, err.Error())
	}
	u := newUpTest(t)
	for range 2 { // the second time on what the first left
		u.start("--", "true").wait(0)
		u.wantNothingLeft()
	}
	if _, err := os.Stat(filepath.Join(u.data, "databases", "postgres", "PG_VERSION")); err != nil {
		t.Errorf("the database is not kept: %v", err)
	}
}

func TestUpSaysHowToUseItAndEndsOnSignals(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		u := newUpTest(t)
		env := filepath.Join(filepath.Dir(u.data), "env")
		s := u.start(append(noDatabases, "--env-file", env)...)
		s.untilReady()
		for _, want := range []string{"Templates: minimal", "export WRENN_URL=http://127.0.0.1:", "WRENN_API_KEY=" + fakeKey, "wrenn create minimal", "destroys its sandboxes"} {
			if !strings.Contains(s.said(&s.stdout), want) {
				t.Errorf("it does not say %q:\n%s", want, s.said(&s.stdout))
			}
		}
		info, err := os.Stat(env)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file of variables: %v, %v", info, err)
		}
		s.signal(sig)
		s.wait(0)
		for _, want := range []string{"host-agent | agent says its\tlast words[2J", "destroying 1 sandbox(es); --keep would leave them running"} {
			if !strings.Contains(s.stderr.String(), want) {
				t.Errorf("it does not say %q:\n%s", want, s.stderr.String())
			}
		}
		u.wantNothingLeft()
	}
}

func TestUpJSON(t *testing.T) {
	u := newUpTest(t)
	s := u.start(append(noDatabases, "--json")...)
	s.until("JSON", func() bool { return strings.HasSuffix(s.said(&s.stdout), "}\n") })
	var got struct {
		URL    string `json:"url"`
		APIKey string `json:"api_key"`
		Data   string `json:"data"`
	}
	if err := json.Unmarshal([]byte(s.said(&s.stdout)), &got); err != nil || got.APIKey != fakeKey || got.Data != u.data || !strings.HasPrefix(got.URL, "http://127.0.0.1:") {
		t.Errorf("%+v, %v", got, err)
	}
	s.signal(syscall.SIGTERM)
	s.wait(0)
}

func TestUpKeepsSandboxesForTheNextOne(t *testing.T) {
	u := newUpTest(t)
	u.start(append(noDatabases, "--keep", "--netns", "isolated", "--", "true")...).wait(0)
	if d := u.diary(); strings.Contains(d, "purge") || strings.Contains(d, "destroys") {
		t.Errorf("sandboxes were destroyed:\n%s", d)
	}
	if _, err := os.Stat(filepath.Join(u.data, "netns")); err != nil {
		t.Errorf("the sandboxes' network is gone: %v", err)
	}

	s := u.start(append(noDatabases, "--keep", "--netns", "isolated", "--", "true")...)
	s.wait(0)
	if !strings.Contains(s.stderr.String(), "taking over") || strings.Contains(u.diary(), "purge") {
		t.Errorf("it did not take over:\n%s\n%s", s.stderr.String(), u.diary())
	}

	// A start that fails leaves them alone too.
	u.start(append([]string{"AGENT=dies"}, append(noDatabases, "--netns", "isolated", "--", "true")...)...).wait(9)
	if d := u.diary(); strings.Contains(d, "purge") {
		t.Errorf("a failed start destroyed sandboxes:\n%s", d)
	}

	// Other settings cannot take them over: they are removed first, with the settings they were made with.
	s = u.start(append(noDatabases, "--subnet", "10.9.0.0/16", "--", "true")...)
	s.wait(0)
	u.wantDiary(`agent serve .*10\.0\.0\.0/16 --netns`, `agent purge .*10\.0\.0\.0/16 --netns`, `agent serve .*10\.9\.0\.0/16$`, `agent purge .*10\.9\.0\.0/16$`)
	u.wantNothingLeft()
}

func TestUpIsolatedMakesAndRemovesANamespace(t *testing.T) {
	u := newUpTest(t)
	u.start(append(noDatabases, "--netns", "isolated", "--", "true")...).wait(0)
	u.wantDiary("agent serve .*--netns "+u.data+"/netns$", "agent purge .*--netns "+u.data+"/netns$")
	u.wantNothingLeft()
}

func TestUpReportsAPartThatDoesNotStart(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		status int
		want   []string
	}{
		"agent dies":         {[]string{"AGENT=dies"}, 9, []string{"the host-agent does not start: it ended: exit status 3", "agent says its", "host-agent.log"}},
		"agent mute":         {[]string{"AGENT=mute", "--ready-timeout", "500ms"}, 9, []string{"not ready after 500ms"}},
		"control plane dies": {[]string{"CONTROL_PLANE=dies"}, 9, []string{"the control-plane does not start"}},
		"control plane mute": {[]string{"CONTROL_PLANE=mute", "--ready-timeout", "500ms"}, 9, []string{"the control-plane does not start: it is not ready"}},
		"no database":        {[]string{"--postgres", "postgres://127.0.0.1:1/x", "--redis", "x"}, 1, []string{"prepare the database: control-plane: exit status 1", "127.0.0.1"}},
		"no command":         {[]string{"--", "surely-no-such-command"}, 127, []string{"surely-no-such-command"}},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpTest(t)
			args := c.args
			if name != "no database" {
				args = append(args[:len(args):len(args)], noDatabases...)
			}
			if i := len(c.args); name == "no command" {
				args = append(append([]string{}, noDatabases...), c.args[:i]...)
			}
			s := u.start(args...)
			s.wait(c.status)
			for _, want := range c.want {
				if !strings.Contains(s.stderr.String(), want) {
					t.Errorf("it does not say %q:\n%s", want, s.stderr.String())
				}
			}
			u.wantNothingLeft()
		})
	}
}

func TestUpStartsWhatDiesAgain(t *testing.T) {
	u := newUpTest(t)
	s := u.start(noDatabases...)
	s.untilReady()
	for _, name := range []string{"agent", "control-plane"} {
		if err := syscall.Kill(u.pidsOf(name)[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.until(name+" serves again", func() bool { return len(u.pidsOf(name)) == 2 })
	}
	s.signal(syscall.SIGTERM)
	s.wait(0)
	u.wantNothingLeft()
}

func TestUpGivesUpOnWhatKeepsDying(t *testing.T) {
	u := newUpTest(t)
	s := u.start(noDatabases...)
	s.untilReady()
	for n := 1; n <= 5; n++ {
		s.until("the agent serves again", func() bool { return len(u.pidsOf("agent")) == n })
		if err := syscall.Kill(u.pidsOf("agent")[n-1], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	s.wait(1)
	if !strings.Contains(s.stderr.String(), "host-agent ended 5 times in quick succession, the last time with: signal: killed") {
		t.Errorf("it said:\n%s", s.stderr.String())
	}
	u.wantNothingLeft()
}

func TestUpKillsWhatDoesNotEnd(t *testing.T) {
	u := newUpTest(t)
	s := u.start(append([]string{"AGENT=stubborn", "CONTROL_PLANE=stubborn"}, append(noDatabases, "--stop-timeout", "200ms", "--", "true")...)...)
	s.wait(0)
	u.wantDiary("control-plane got terminated", "agent got terminated", "agent purge")
	u.wantNothingLeft()
}

func TestUpAfterItWasKilled(t *testing.T) {
	u := newUpTest(t)
	s := u.start(append(noDatabases, "--netns", "isolated")...)
	s.untilReady()
	s.signal(syscall.SIGKILL)
	s.wait(-1)
	s.until("the servers got the death signal", func() bool {
		return strings.Contains(u.diary(), "agent got terminated") && strings.Contains(u.diary(), "control-plane got terminated")
	})
	s = u.start(append(noDatabases, "--netns", "isolated", "--", "true")...)
	s.wait(0)
	if !strings.Contains(s.stderr.String(), "taking over") {
		t.Errorf("it said:\n%s", s.stderr.String())
	}
	u.wantNothingLeft()
}

// What ignores the death signal is killed by the next `wrenn up`, but only if it is still the same process.
func TestUpEndsLeftOverServers(t *testing.T) {
	u := newUpTest(t)
	dir := filepath.Join(u.data, "up", "host-agent")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	leftover, bystander := exec.Command("sleep", "600"), exec.Command("sleep", "600")
	leftover.Dir = dir
	for _, cmd := range []*exec.Cmd{leftover, bystander} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- leftover.Wait() }()
	t.Cleanup(func() { _ = leftover.Process.Kill() }) // it has ended, unless the test failed
	t.Cleanup(func() {
		if err := bystander.Process.Kill(); err != nil {
			t.Errorf("the bystander was ended: %v", err)
		}
		_ = bystander.Wait() // it was killed
	})
	writePID(t, dir, leftover.Process.Pid)
	other := filepath.Join(u.data, "up", "control-plane")
	if err := os.MkdirAll(other, 0o700); err != nil {
		t.Fatal(err)
	}
	writePID(t, other, bystander.Process.Pid)
	u.start(append(noDatabases, "--", "true")...).wait(0)
	if err := <-ended; err == nil || err.Error() != "signal: terminated" {
		t.Errorf("the left-over server ended with %v", err)
	}
	u.wantNothingLeft()
}

func writePID(t *testing.T, dir string, pid int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(pid)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSecondUpIsRefused(t *testing.T) {
	u := newUpTest(t)
	s := u.start(noDatabases...)
	s.untilReady()
	second := u.start(append(noDatabases, "--", "true")...)
	second.wait(6)
	if !strings.Contains(second.stderr.String(), "in use by process "+strconv.Itoa(s.cmd.Process.Pid)) {
		t.Errorf("it said:\n%s", second.stderr.String())
	}
	s.signal(syscall.SIGTERM)
	s.wait(0)
	u.wantNothingLeft()
}

func TestSignalEndsTheCommandToo(t *testing.T) {
	u := newUpTest(t)
	s := u.start(append(noDatabases, "--", "sh", "-c", "echo up; exec sleep 600")...)
	s.until("the command runs", func() bool { return strings.Contains(s.said(&s.stdout), "up") })
	s.signal(syscall.SIGTERM)
	s.wait(128 + int(syscall.SIGTERM))
	u.wantNothingLeft()
}

func TestSignalDuringTheStart(t *testing.T) {
	u := newUpTest(t)
	s := u.start(append([]string{"AGENT=mute"}, append(noDatabases, "--", "true")...)...)
	s.until("the agent runs", func() bool { return len(u.pidsOf("agent")) > 0 })
	s.signal(syscall.SIGINT)
	s.wait(130)
	u.wantNothingLeft()
}

func TestUpRefusesWhatMakesNoSense(t *testing.T) {
	u := newUpTest(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		status int
		want   string
		args   []string
	}{
		{2, "--netns must be host or isolated", []string{"--netns", "other"}},
		{2, "--driver must be", []string{"--driver", "xen"}},
		{2, "--volume must be", []string{"--volume", "on"}},
		{2, "--subnet must be", []string{"--subnet", "10.0.0.1/16"}},
		{2, "--listen must be", []string{"--listen", "8000"}},
		{2, "must be above 0", []string{"--ready-timeout", "0s"}},
		{2, "exclude each other", []string{"--json", "--", "true"}},
		{2, "comes after --", []string{"true"}},
		{2, "longer than", []string{"--data", "/tmp/" + strings.Repeat("x", 60)}},
		{6, "address already in use", []string{"--listen", taken.Addr().String()}},
		{7, "kernel cannot be found", []string{"--kernel", "/no/such/kernel"}},
		{7, "images cannot be found", []string{"--images", "/no/such/images"}},
	} {
		s := u.start(c.args...)
		s.wait(c.status)
		if !strings.Contains(s.stderr.String(), c.want) {
			t.Errorf("%q: it said %s", c.args, s.stderr.String())
		}
	}
	if err := os.Remove(filepath.Join(u.bin, "host-agent")); err != nil {
		t.Fatal(err)
	}
	s := u.start()
	s.wait(7)
	if !strings.Contains(s.stderr.String(), "hint: make build") || u.diary() != "" {
		t.Errorf("it said %s\n%s", s.stderr.String(), u.diary())
	}
	if _, err := os.Stat(u.data); !os.IsNotExist(err) {
		t.Errorf("something was made: %v", err)
	}
}
