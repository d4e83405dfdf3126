package main

import (
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func settings(t *testing.T, o *onTerminal) unix.Termios {
	t.Helper()
	var got *unix.Termios
	o.control(func(fd int) (err error) {
		got, err = unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	})
	return *got
}

func TestExecOnATerminal(t *testing.T) {
	_, url := service(t)
	o := startOnTerminal(t, url, "exec", "-it", "-e", "A=it's", "sb-00000001", "--", "python3", "-c", "print(1)")
	o.await(`size=100x30 cmd=exec 'python3' '-c' 'print(1)' env=map[A:it's] user= id= offset=`)
	o.await(`control {"type":"resize","cols":100,"rows":30}`)
	if settings(t, o).Lflag&(unix.ICANON|unix.ECHO) != 0 {
		t.Error("the terminal is not raw")
	}
	o.enter("abc\x03")
	o.await("ABC\x03")
	o.control(func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: 120, Row: 40}) })
	o.await(`control {"type":"resize","cols":120,"rows":40}`)
	o.enter("bye")
	if status := ended(t, o.cmd); status != 3 {
		t.Errorf("status %d", status)
	}
	if settings(t, o).Lflag&(unix.ICANON|unix.ECHO) != unix.ICANON|unix.ECHO {
		t.Error("the terminal was left raw")
	}
}

// TestTerminalComesBack: a connection that breaks is taken up again where it was.
func TestTerminalComesBack(t *testing.T) {
	_, url := service(t)
	o := startOnTerminal(t, url, "shell", "sb-00000001", "-u", "root")
	o.await("size=100x30 cmd= env=map[] user=root id= offset=\r\n")
	o.await("control")
	o.enter("drop")
	o.await("id=" + fakeTerminal + " offset=")
	o.enter("still")
	o.await("STILL")
	o.enter("bye")
	if status := ended(t, o.cmd); status != 3 {
		t.Errorf("status %d", status)
	}
}

func TestShellIsLeftRunning(t *testing.T) {
	client, url := service(t)
	o := startOnTerminal(t, url, "shell", "sb-00000001")
	o.await("control")
	o.enter("x~.\r~~\r~")
	o.await("X~.\r~\r")
	o.enter(".")
	o.await("wrenn shell sb-00000001 --attach " + fakeTerminal)
	if status := ended(t, o.cmd); status != 0 {
		t.Errorf("status %d", status)
	}
	if settings(t, o).Lflag&unix.ECHO == 0 {
		t.Error("the terminal was left raw")
	}
	if p := onlyProcess(t, client); p.Exit != nil {
		t.Errorf("the shell ended: %+v", p)
	}
}

// TestSignalsEndTerminals: the program of exec is killed, a shell gets SIGHUP, and the terminal is as it was before.
func TestSignalsEndTerminals(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		sig  syscall.Signal
	}{
		"exec":  {[]string{"exec", "-it", "sb-00000001", "--", "cat"}, syscall.SIGTERM},
		"shell": {[]string{"shell", "sb-00000001"}, syscall.SIGHUP},
	} {
		client, url := service(t)
		o := startOnTerminal(t, url, c.args...)
		o.await("control")
		if err := o.cmd.Process.Signal(c.sig); err != nil {
			t.Fatal(err)
		}
		if status := ended(t, o.cmd); status != 129 {
			t.Errorf("%s: status %d", name, status)
		}
		if settings(t, o).Lflag&unix.ECHO == 0 {
			t.Errorf("%s: the terminal was left raw", name)
		}
		p := onlyProcess(t, client)
		if name == "exec" && (p.Exit == nil || p.Exit.Signal != 9) {
			t.Errorf("it was left as %+v", p)
		}
		if name == "shell" {
			stream, err := client.ProcessOutput(t.Context(), "sb-00000001", p.PID, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			var text []byte
			for event, err := range stream.Events() {
				if err != nil {
					t.Fatal(err)
				}
				if text = append(text, event.Data...); slices.Equal(text, []byte("ready\nSIGHUP\n")) || event.Kind == wrenn.Exited {
					break
				}
			}
			if string(text) != "ready\nSIGHUP\n" {
				t.Errorf("the shell got %q", text)
			}
		}
	}
}

func TestEscape(t *testing.T) {
	for _, c := range []struct {
		typed  []string
		rest   string
		detach bool
	}{
		{[]string{"~."}, "", true},
		{[]string{"~", "."}, "", true},
		{[]string{"ls\r~", "."}, "ls\r", true},
		{[]string{"a~."}, "a~.", false},
		{[]string{"~~."}, "~.", false},
		{[]string{"~x~."}, "~x~.", false},
		{[]string{"~\r~."}, "~\r", true},
	} {
		e := escape{atLineStart: true}
		var rest []byte
		var detach bool
		for _, piece := range c.typed {
			var some []byte
			some, detach = e.filter([]byte(piece))
			rest = append(rest, some...)
		}
		if string(rest) != c.rest || detach != c.detach {
			t.Errorf("%q: %q, %v", c.typed, rest, detach)
		}
	}
}
