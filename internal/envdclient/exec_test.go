package envdclient

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestExec(t *testing.T) {
	c := attach(t)
	r := run(t, c, shell(`printf 'out\000\377'; printf err >&2; exit 3`))
	if string(r.stdout) != "out\x00\xff" || string(r.stderr) != "err" || r.exited != (Exited{Code: 3}) || r.pid == 0 {
		t.Errorf("%+v", r)
	}
	r = run(t, c, shell(`kill -SEGV $$`))
	if r.exited.Signal != int(syscall.SIGSEGV) || r.exited.Code != -1 || r.exited.TimedOut {
		t.Errorf("%+v", r.exited)
	}
}

func TestExecSettings(t *testing.T) {
	c := attach(t)
	r := run(t, c, Command{
		Cmd: "sh", Args: []string{"-c", `id -un; pwd; echo "$FROM_INIT $OWN $HOME"`},
		User: "nobody", Cwd: "/usr", Env: map[string]string{"OWN": "ü"},
	})
	if lines := strings.Split(string(r.stdout), "\n"); lines[0] != "nobody" || lines[1] != "/usr" || !strings.HasPrefix(lines[2], "yes ü /") {
		t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
	}
	if r := run(t, c, Command{Cmd: "pwd"}); string(r.stdout) != "/tmp\n" {
		t.Errorf("stdout %q", r.stdout)
	}
}

func TestExecErrors(t *testing.T) {
	c := attach(t)
	for _, test := range []struct {
		command Command
		code    models.Code
		text    string
	}{
		{Command{Cmd: "no-such-command"}, models.Invalid, "command not found: no-such-command"},
		{Command{Cmd: "true", User: "nobody-here"}, models.Invalid, "nobody-here"},
		{Command{Cmd: "true", Cwd: "/missing"}, models.Invalid, "/missing"},
		{Command{Cmd: "/etc/passwd"}, models.Invalid, "permission denied"},
		{Command{}, models.Invalid, "no command"},
		{Command{Cmd: "echo", Args: []string{"\xff"}}, models.Invalid, "UTF-8"},
		{Command{Cmd: "true", Timeout: -1}, models.Invalid, "timeout"},
		{Command{Cmd: "echo", Args: []string{strings.Repeat("x", 1<<20)}}, models.Invalid, "too long"},
		{Command{Cmd: "echo", Args: []string{strings.Repeat("x", 8<<20)}}, models.Exhausted, ""},
	} {
		_, err := c.Exec(within(t), test.command)
		wantError(t, err, test.code, test.text)
	}
}

func TestWrongToken(t *testing.T) {
	c := New(dialTCP(guest), "wrong")
	defer c.Close()
	ctx := within(t)
	_, err := c.Exec(ctx, Command{Cmd: "true"})
	wantError(t, err, models.Internal, "")
	_, err = c.Metrics(ctx)
	wantError(t, err, models.Internal, "access token")
	_, err = c.ReadFile(ctx, "/etc/passwd", "")
	wantError(t, err, models.Internal, "access token")
	if _, err = c.Health(ctx); err != nil {
		t.Error(err)
	}
}

func TestExecTimeout(t *testing.T) {
	c := attach(t)
	command := shell("echo up; trap '' TERM; sleep 1000 & sleep 1000")
	command.Timeout = 700 * time.Millisecond
	r := run(t, c, command)
	if r.exited != (Exited{Code: -1, Signal: 9, TimedOut: true}) || string(r.stdout) != "up\n" {
		t.Errorf("%+v", r)
	}
	eventually(t, gone(int(r.pid)))
	command = shell("exit 4")
	command.Timeout = time.Hour
	if r := run(t, c, command); r.exited != (Exited{Code: 4}) {
		t.Errorf("%+v", r.exited)
	}
}

// The end of the caller's context kills the tree, whether somebody reads or not.
func TestExecCancel(t *testing.T) {
	c := attach(t)
	for name, reads := range map[string]bool{"while reading": true, "while not reading": false} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(within(t))
			child := filepath.Join(t.TempDir(), "child")
			e, err := c.Exec(ctx, shell("sleep 1000 & echo $! >"+child+"; sleep 1000"))
			if err != nil {
				t.Fatal(err)
			}
			pid := 0
			eventually(t, func() error {
				text, err := os.ReadFile(child)
				if err == nil {
					_, err = fmt.Sscan(string(text), &pid)
				}
				return err
			})
			cancel()
			if reads {
				wantError(t, finish(e).err, models.Unavailable, "cancelled")
			}
			eventually(t, gone(int(e.PID())))
			eventually(t, gone(pid))
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExecDeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	e, err := attach(t).Exec(ctx, shell("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	r := finish(e)
	wantError(t, r.err, models.Deadline, "ran out")
	if _, err := e.Next(); err != r.err {
		t.Errorf("then %v", err)
	}
	eventually(t, gone(int(r.pid)))
}

func TestExecCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := attach(t).Exec(ctx, shell("sleep 1000"))
	wantError(t, err, models.Unavailable, "cancelled")
}

func TestCloseKills(t *testing.T) {
	c := attach(t)
	e := begin(t, c, shell("sleep 1000"))
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, gone(int(e.PID())))
	e = begin(t, c, shell("sleep 1000"))
	c.Close()
	eventually(t, gone(int(e.PID())))
	wantError(t, finish(e).err, models.Unavailable, "gone")
	_, err := c.Health(within(t))
	wantError(t, err, models.Unavailable, "gone")
}

func TestSignal(t *testing.T) {
	c := attach(t)
	e := begin(t, c, shell(`trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done`))
	for range 2 { // started, ready
		if _, err := e.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Signal(within(t), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if r := finish(e); r.exited != (Exited{Code: 9}) {
		t.Errorf("%+v", r)
	}
	wantError(t, e.Signal(within(t), syscall.SIGTERM), models.Precondition, "has ended")
	if _, err := e.Next(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestStdin(t *testing.T) {
	c := attach(t)
	want := bytes.Repeat([]byte("0123456789\x00\xff\r\n."), 10<<20/15)
	e := begin(t, c, Command{Cmd: "cat", Stdin: true})
	fed := make(chan error, 1)
	go func() {
		err := e.WriteStdin(within(t), want)
		if err == nil {
			err = e.CloseStdin(within(t))
		}
		fed <- err
	}()
	r := finish(e)
	if err := <-fed; err != nil || r.err != nil || !bytes.Equal(r.stdout, want) {
		t.Errorf("fed %v, ended %v, %d bytes came back", err, r.err, len(r.stdout))
	}
	wantError(t, e.WriteStdin(within(t), []byte("x")), models.Unavailable, "cancelled") // the Exec is closed
	e = begin(t, c, Command{Cmd: "true", Stdin: true})
	if err := e.CloseStdin(within(t)); err != nil {
		wantError(t, err, models.Precondition, "ended")
	}
	for event, err := e.Next(); err == nil; event, err = e.Next() {
		_ = event
	}
	wantError(t, e.WriteStdin(within(t), []byte("x")), models.Precondition, "ended")
}

// A writer whose process does not read ends with its context, or with the process.
func TestStdinThatNobodyReads(t *testing.T) {
	e := begin(t, attach(t), Command{Cmd: "sleep", Args: []string{"1000"}, Stdin: true})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	wantError(t, e.WriteStdin(ctx, make([]byte, 1<<20)), models.Deadline, "")
	written := make(chan error, 1)
	go func() { written <- e.WriteStdin(within(t), make([]byte, 1<<20)) }()
	if err := e.Signal(within(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-written, models.Precondition, "")
}

// Many at once share the client, and leave nothing behind on the host.
func TestManyExecs(t *testing.T) {
	c := attach(t)
	before := runtime.NumGoroutine()
	for range 4 {
		var group sync.WaitGroup
		for i := range 25 {
			group.Go(func() {
				e, err := c.Exec(within(t), shell(fmt.Sprintf("echo %d; exit %d", i, i)))
				if err != nil {
					t.Error(err)
					return
				}
				if r := finish(e); r.err != nil || r.exited.Code != i || string(r.stdout) != fmt.Sprintln(i) {
					t.Errorf("%d: %+v", i, r)
				}
			})
		}
		group.Wait()
	}
	c.Close()
	eventually(t, func() error {
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Errorf("%d goroutines, %d before", n, before)
		}
		return nil
	})
}

func TestLargeOutput(t *testing.T) {
	r := run(t, attach(t), shell("head -c 10000000 /dev/zero; head -c 3000000 /dev/zero >&2"))
	if len(r.stdout) != 10_000_000 || len(r.stderr) != 3_000_000 {
		t.Errorf("%d and %d bytes", len(r.stdout), len(r.stderr))
	}
}

func BenchmarkTrue(b *testing.B) {
	c := attach(b)
	for b.Loop() {
		if r := run(b, c, Command{Cmd: "bash", Args: []string{"-c", "true"}}); r.exited != (Exited{}) {
			b.Fatalf("%+v", r)
		}
	}
}

func BenchmarkOutput(b *testing.B) {
	c := attach(b)
	const size = 64 << 20
	b.SetBytes(size)
	for b.Loop() {
		if r := run(b, c, shell(fmt.Sprintf("head -c %d /dev/zero", size))); len(r.stdout) != size {
			b.Fatalf("%d bytes", len(r.stdout))
		}
	}
}
