package envdclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func launch(t *testing.T, c *Client, spec Spec) Process {
	t.Helper()
	p, err := c.Start(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Signal(context.Background(), Selector{PID: p.PID}, syscall.SIGKILL) }) // it may have ended
	return p
}

// follow reads an attachment to the end of the process.
func follow(t *testing.T, c *Client, which Selector, offset int64) (output string, gap uint64, exited Exited) {
	t.Helper()
	a, err := c.Attach(within(t), which, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	for {
		event, err := a.Next()
		if errors.Is(err, io.EOF) {
			return output, gap, exited
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := event.(type) {
		case Stdout:
			output += string(e)
		case Stderr:
			output += string(e)
		case PTY:
			output += string(e)
		case Gap:
			gap += e.Bytes
		case Exited:
			exited = e
		}
	}
}

// A process outlives the call that started it, and tells all that it wrote to who comes late, also after its end.
func TestBackground(t *testing.T) {
	c := attach(t)
	ctx, cancel := context.WithCancel(within(t))
	p, err := c.Start(ctx, Spec{Command: Command{Cmd: "/bin/sh", Args: []string{"-c", "echo one; read x; echo got $x; exit 5"}, Stdin: true, Cwd: "/"}, Tag: "background"})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if p.PID == 0 || p.Tag != "background" || p.Cmd != "/bin/sh" || p.Cwd != "/" || p.User != "root" || p.PTY || p.Exit != nil || time.Since(p.StartedAt) > patience {
		t.Errorf("%+v", p)
	}
	which := Selector{Tag: "background"}
	if err := c.SendInput(within(t), which, []byte("input\n")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if output, gap, exited := follow(t, c, which, 0); output != "one\ngot input\n" || gap != 0 || exited != (Exited{Code: 5}) {
			t.Errorf("%q, a gap of %d, %+v", output, gap, exited)
		}
	}
	if output, _, _ := follow(t, c, Selector{PID: p.PID}, 4); output != "got input\n" {
		t.Errorf("from 4 on: %q", output)
	}
	if output, _, exited := follow(t, c, which, FromNow); output != "" || exited.Code != 5 {
		t.Errorf("from now on: %q, %+v", output, exited)
	}
	p, err = c.Process(within(t), which)
	if err != nil || p.Exit == nil || *p.Exit != (Exited{Code: 5}) || p.OutputBytes != uint64(len("one\ngot input\n")) {
		t.Errorf("%+v, %v", p, err)
	}
	wantError(t, c.SendInput(within(t), which, []byte("x")), models.Precondition, "has ended")
}

func TestBackgroundEnds(t *testing.T) {
	c := attach(t)
	p := launch(t, c, Spec{Command: shell("sleep 1000 & sleep 1000")})
	if err := c.Signal(within(t), Selector{PID: p.PID}, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, _, exited := follow(t, c, Selector{PID: p.PID}, 0); exited != (Exited{Code: -1, Signal: 15}) {
		t.Errorf("%+v", exited)
	}
	command := shell("sleep 1000")
	command.Timeout = 300 * time.Millisecond
	p = launch(t, c, Spec{Command: command})
	if _, _, exited := follow(t, c, Selector{PID: p.PID}, 0); exited != (Exited{Code: -1, Signal: 9, TimedOut: true}) {
		t.Errorf("%+v", exited)
	}
	p = launch(t, c, Spec{Command: Command{Cmd: "cat", Stdin: true}})
	if err := c.CloseStdin(within(t), Selector{PID: p.PID}); err != nil {
		t.Fatal(err)
	}
	if _, _, exited := follow(t, c, Selector{PID: p.PID}, 0); exited != (Exited{}) {
		t.Errorf("%+v", exited)
	}
}

func TestTerminal(t *testing.T) {
	c := attach(t)
	p := launch(t, c, Spec{Command: shell("stty -echo; stty size; read x; stty size; echo [$x]"), PTY: &Size{Cols: 100, Rows: 30}})
	which := Selector{PID: p.PID}
	if !p.PTY {
		t.Errorf("%+v", p)
	}
	a, err := c.Attach(within(t), which, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	for said := ""; !strings.Contains(said, "30 100"); {
		event, err := a.Next()
		if err != nil {
			t.Fatal(err)
		}
		if out, ok := event.(PTY); ok {
			said += string(out)
		}
	}
	if err := c.Resize(within(t), which, Size{Cols: 120, Rows: 40}); err != nil {
		t.Fatal(err)
	}
	if err := c.SendTerminal(within(t), which, []byte("text\n")); err != nil {
		t.Fatal(err)
	}
	if output, _, exited := follow(t, c, which, 0); output != "30 100\r\n40 120\r\n[text]\r\n" || exited != (Exited{}) {
		t.Errorf("%q, %+v", output, exited)
	}
}

// Who comes too late for what the ring holds is told how much is missing, and gets the rest.
func TestGap(t *testing.T) {
	c := attach(t)
	const size = 8 << 20
	p := launch(t, c, Spec{Command: shell(fmt.Sprintf("head -c %d /dev/zero; echo end", size))})
	eventually(t, func() error {
		p, err := c.Process(within(t), Selector{PID: p.PID})
		if err == nil && p.Exit == nil {
			err = errors.New("it still runs")
		}
		return err
	})
	output, gap, _ := follow(t, c, Selector{PID: p.PID}, 0)
	if gap == 0 || gap+uint64(len(output)) != size+4 || !strings.HasSuffix(output, "end\n") {
		t.Errorf("a gap of %d and %d bytes of %d", gap, len(output), size+4)
	}
}

func TestProcessErrors(t *testing.T) {
	c := attach(t)
	nobody := Selector{Tag: "nobody"}
	for name, do := range map[string]func() error{
		"attach": func() error { _, err := c.Attach(within(t), nobody, 0); return err },
		"signal": func() error { return c.Signal(within(t), nobody, 15) },
		"input":  func() error { return c.SendInput(within(t), nobody, []byte("x")) },
		"find":   func() error { _, err := c.Process(within(t), nobody); return err },
	} {
		if err := do(); models.CodeOf(err) != models.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := c.Start(within(t), Spec{Command: Command{Cmd: "true"}, PTY: &Size{}})
	wantError(t, err, models.Invalid, "columns")
	_, err = c.Start(within(t), Spec{Command: Command{Cmd: "/missing"}})
	wantError(t, err, models.Invalid, "")
	p := launch(t, c, Spec{Command: Command{Cmd: "sleep", Args: []string{"1000"}}})
	if err := c.Resize(within(t), Selector{PID: p.PID}, Size{Cols: 1, Rows: 1}); err == nil {
		t.Error("a process without a terminal has a new size")
	}
}
