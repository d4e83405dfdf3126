package envdclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// patience bounds every wait; it is long because the machine may be busy.
const patience = time.Minute

const testToken = "the-token-of-the-tests"

// guest is the address of a real envd in development mode, which all tests share.
var guest string

func TestMain(m *testing.M) {
	runtime.LockOSThread() // the death signal below is sent when the thread that started envd ends
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	stop, err := startGuest()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer stop()
	return m.Run()
}

// startGuest builds and starts envd, and waits until it serves.
func startGuest() (stop func(), err error) {
	dir, err := os.MkdirTemp("", "wrenn-envdclient-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a running program needs no name
	binary := filepath.Join(dir, "envd")
	build := exec.Command("go", "build", "-o", binary, "github.com/wrenn-sandbox/wrenn/envd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build envd: %w\n%s", err, out)
	}
	cmd := exec.Command(binary, "-listen", "127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if _, addr, found := strings.Cut(lines.Text(), "server on "); found {
			guest = addr
			go func() {
				for lines.Scan() { // ends with envd
				}
			}()
			return stop, initGuest()
		}
	}
	stop()
	return nil, errors.New("envd ended at once")
}

func initGuest() error {
	c := New(dialTCP(guest), testToken)
	defer c.Close()
	return c.Init(context.Background(), Init{DefaultUser: "root", Env: map[string]string{"FROM_INIT": "yes"}, DefaultWorkdir: "/tmp"})
}

func dialTCP(addr string) Dial {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
}

// attach returns a client of the real envd.
func attach(t testing.TB) *Client {
	t.Helper()
	c := New(dialTCP(guest), testToken)
	t.Cleanup(c.Close)
	return c
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// wantError checks an error's code and text.
func wantError(t testing.TB, err error, code models.Code, text string) {
	t.Helper()
	var coded *models.Error
	if !errors.As(err, &coded) || coded.Code != code || !strings.Contains(coded.Message, text) {
		t.Errorf("error %v (%v), want %s with %q", err, models.CodeOf(err), code, text)
	}
}

func shell(script string) Command { return Command{Cmd: "/bin/sh", Args: []string{"-c", script}} }

// result is what a process left behind.
type result struct {
	pid            uint32
	stdout, stderr []byte
	exited         Exited
	err            error // instead of exited
}

// finish reads all events.
func finish(e *Exec) (r result) {
	defer func() { _ = e.Close() }()
	for {
		event, err := e.Next()
		if err != nil {
			r.err = err
			return r
		}
		switch event := event.(type) {
		case Started:
			r.pid = event.PID
		case Stdout:
			r.stdout = append(r.stdout, event...)
		case Stderr:
			r.stderr = append(r.stderr, event...)
		case Exited:
			r.exited = event
			return r
		}
	}
}

func begin(t testing.TB, c *Client, command Command) *Exec {
	t.Helper()
	e, err := c.Exec(within(t), command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func run(t testing.TB, c *Client, command Command) result {
	t.Helper()
	r := finish(begin(t, c, command))
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r
}

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

func gone(pid int) func() error {
	return func() error {
		if syscall.Kill(pid, 0) == nil {
			return fmt.Errorf("process %d is still there", pid)
		}
		return nil
	}
}
