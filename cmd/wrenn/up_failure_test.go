package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
	// It may have been killed before "up" had seen that it was ready.
	_, last, ended := strings.Cut(s.stderr.String(), "host-agent ended 5 times in quick succession, the last time with: ")
	if !ended || !strings.Contains(last, "signal: killed") {
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
	select {
	case err := <-ended:
		if err == nil || err.Error() != "signal: terminated" {
			t.Errorf("the left-over server ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the left-over server runs on")
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
