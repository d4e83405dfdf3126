package vmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// childEnv holds the order of a copy of the test binary that plays an agent. It is killed once it has
// obeyed, as an agent may be.
const childEnv = "WRENN_VMTEST_CHILD"

const (
	actStart   = "start"   // start Spec, and wait for its guest
	actRestore = "restore" // restore Spec from From, and wait for its guest
	actAdopt   = "adopt"   // adopt Saved, and call its guest
)

type order struct {
	Act    string
	Spec   vm.Spec
	From   vm.Image
	Saved  vm.Saved
	Answer string // the file that the child's Saved goes into
}

func isChild() bool { return os.Getenv(childEnv) != "" }

// runChild gives order to a child, and returns its Saved after its death.
func (w *world) runChild(o order) vm.Saved {
	w.Helper()
	o.Answer = filepath.Join(w.root, "tmp", "answer")
	text, err := json.Marshal(o)
	w.must(err)
	child := exec.CommandContext(w.ctx(), os.Args[0], "-test.run="+exactly(w.caller()), "-test.timeout="+w.subject.limit().String())
	child.Env = append(os.Environ(), childEnv+"="+string(text))
	var output bytes.Buffer
	child.Stdout, child.Stderr = &output, &output // Run returns only when no process holds them any more
	if err := child.Run(); !wasKilled(err) {
		w.Fatalf("the other agent failed: %v\n%s", err, &output)
	}
	answer, err := os.ReadFile(o.Answer)
	w.must(err)
	w.must(os.Remove(o.Answer))
	var saved vm.Saved
	w.must(json.Unmarshal(answer, &saved))
	return saved
}

func wasKilled(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// caller is the name of the test that called Run.
func (w *world) caller() string {
	return w.Name()[:strings.LastIndexByte(w.Name(), '/')]
}

// exactly returns the -test.run pattern of one test.
func exactly(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}

// runChild obeys the order in the environment, and does not return unless it failed.
func runChild(t *testing.T, subject Subject) {
	var o order
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), subject.limit())
	defer cancel()
	running, err := obey(ctx, subject, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := health(ctx, running); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(running.Saved())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.Answer, text, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until the signal arrives
}

func obey(ctx context.Context, subject Subject, o order) (vm.Running, error) {
	switch o.Act {
	case actAdopt:
		return subject.Driver.Adopt(ctx, o.Saved)
	case actRestore:
		running, err := vm.Restore(ctx, subject.Driver, o.Spec, o.From)
		if err == nil {
			err = running.Resume(ctx)
		}
		return running, err
	}
	configured, err := subject.Driver.Configure(ctx, o.Spec)
	if err != nil {
		return nil, err
	}
	return configured.Start(ctx)
}
