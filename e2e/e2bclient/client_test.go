// Package e2bclient drives our envd with E2B's released clients, unmodified: the Python package e2b
// (python/) and the npm package e2b (javascript/), each against envd in development mode and against the
// envd of a VM. What the clients do is written in their languages; each case there is a subtest here.
//
// In debug mode the clients pretend that envd is of version 99.99.99, have no token, so that no URL is signed,
// and answer kill, connect, setTimeout and getMetrics themselves. Everything else goes to envd.
package e2bclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// patience bounds a client's whole run: the VM is emulated.
const patience = 10 * time.Minute

// server is an envd and the way to it.
type server struct {
	netns string   // "" for the namespace of the test
	env   []string // tells the clients where it is
}

func TestPythonOnDevelopmentServer(t *testing.T)     { development(t, python(t)) }
func TestJavaScriptOnDevelopmentServer(t *testing.T) { development(t, javascript(t)) }
func TestPythonOnVM(t *testing.T)                    { guest(t, python(t)) }
func TestJavaScriptOnVM(t *testing.T)                { guest(t, javascript(t)) }

func development(t *testing.T, client program) { client.drive(t, developmentServer(t)) }
func guest(t *testing.T, client program)       { client.drive(t, guestServer(t)) }

// ownHome runs a program with an empty home of root's: the clients' commands are login shells, which must neither depend on the machine's
// profile nor, killed in the midst of it, leave something in the way of the next one.
const ownHome = `mount -t tmpfs home ~root && exec "$0" "$@"`

// developmentServer runs envd on the one port that the clients know in debug mode, in a network
// namespace of its own.
func developmentServer(t *testing.T) server {
	testlane.NeedRoot(t)
	ns := filepath.Join(t.TempDir(), "netns")
	if err := netns.Create(ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(ns); err != nil {
			t.Error(err)
		}
	})
	var log bytes.Buffer
	cmd := exec.Command("unshare", "--mount", "sh", "-c", ownHome, buildEnvd(t), "-listen", "127.0.0.1:49983")
	ready := newReady(&log)
	cmd.Stderr = ready
	if err := netns.Start(ns, cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended, which Wait says
		if err := cmd.Wait(); err != nil {
			t.Errorf("envd: %v\n%s", err, log.Bytes())
		}
	})
	if !ready.wait(t.Context()) {
		t.Fatalf("envd does not listen")
	}
	return server{netns: ns, env: []string{"E2B_DEBUG=true"}}
}

func buildEnvd(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "envd")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Dir, build.Env = filepath.Join("..", "..", "envd"), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build envd: %v\n%s", err, out)
	}
	return binary
}

// ready is a log that knows when something was written to it, which envd does once it listens.
type ready struct {
	log   *bytes.Buffer
	wrote chan struct{}
}

func newReady(log *bytes.Buffer) *ready { return &ready{log, make(chan struct{}, 1)} }

func (r *ready) Write(p []byte) (int, error) {
	select {
	case r.wrote <- struct{}{}:
	default: // told already
	}
	return r.log.Write(p)
}

func (r *ready) wait(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	select {
	case <-r.wrote:
		return true
	case <-ctx.Done():
		return false
	}
}

// program is a client and its cases.
type program struct {
	args []string
	dir  string
	env  []string
}

// line is what a program prints: one a case, and a last one that says how many there were.
type line struct {
	Case    string
	OK      bool
	Error   string
	Trace   string
	Seconds float64
	Done    *int
}

// drive runs the program's cases against s.
func (p program) drive(t *testing.T, s server) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.args[0], p.args[1:]...)
	cmd.Dir, cmd.Env = p.dir, append(append(os.Environ(), p.env...), s.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if s.netns == "" {
		err = cmd.Start()
	} else {
		err = netns.Start(s.netns, cmd)
	}
	if err != nil {
		t.Fatal(err)
	}
	seen, done := report(t, out)
	if err := cmd.Wait(); err != nil || seen == 0 || done != seen {
		t.Errorf("the client ended early, after %d cases (it says %d): %v\n%s", seen, done, err, stderr.Bytes())
	}
}

// report makes each case a subtest. It returns how many there were, and how many the program says it ran.
func report(t *testing.T, out io.Reader) (seen, done int) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Errorf("the client printed %q", lines.Text())
			continue
		}
		if l.Done != nil {
			done = *l.Done
			continue
		}
		seen++
		t.Run(l.Case, func(t *testing.T) {
			if !l.OK {
				t.Errorf("after %.1f s: %s\n%s", l.Seconds, l.Error, l.Trace)
			}
		})
	}
	if err := lines.Err(); err != nil {
		t.Error(err)
	}
	return seen, done
}
