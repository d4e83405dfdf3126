package pager

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// playPager is a pager's program whose source is the content of the tests, or is damaged.
func playPager() error {
	return Main(context.Background(), func(_ context.Context, source json.RawMessage) (Source, error) {
		c := newContent()
		if string(source) == `"damaged"` {
			c.hold = func(_ context.Context, i int64) error {
				return models.Errorf(models.Precondition, "chunk %d is damaged", i)
			}
		}
		return c, nil
	})
}

// startPager starts a pager's program for a VMM, which has begun.
func startPager(t *testing.T, source string) (*Started, *vmmProcess, Order) {
	t.Helper()
	testlane.NeedRoot(t)
	r := newRig(t)
	l, socket := listen(t)
	guest := startGuest(t, socket)
	identity, err := vmm.Identify(guest.cmd.Process.Pid)
	must(t, err)
	o := r.order
	o.VMM, o.Source, o.End = identity, json.RawMessage(source), filepath.Join(filepath.Dir(o.Memory), "end")
	t.Setenv(playEnv, "pager")
	self, err := os.Executable()
	must(t, err)
	started, err := Start(t.Context(), []string{self}, o, l, os.Stderr)
	must(t, err)
	t.Setenv(playEnv, "")
	t.Cleanup(func() {
		_ = started.Leisure.Close()
		must(t, started.Process.Kill(context.Background()))
		started.Process.Release()
	})
	return started, guest, o
}

func awaitEnd(t *testing.T, started *Started) vmm.Status {
	t.Helper()
	select {
	case <-started.Process.Done():
	case <-time.After(limit):
		t.Fatal("the pager has not ended")
	}
	return started.Process.Status()
}

func TestProgramEndsWhenAllIsThere(t *testing.T) {
	started, guest, o := startPager(t, `"good"`)
	if got, want := guest.tell("sum 0 %d", guestPages), newContent().sum(0, guestPages); got != want {
		t.Error("the guest has found something else")
	}
	must(t, started.Leisure.Close())
	if status := awaitEnd(t, started); status.Code != 0 || status.Signal != 0 {
		t.Errorf("its status is %+v", status)
	}
	if end, err := ReadEnd(o.End); err != nil || !end.Whole {
		t.Errorf("it ended with %+v (%v)", end, err)
	}
	if got, want := guest.tell("sum 0 %d", guestPages), newContent().sum(0, guestPages); got != want {
		t.Error("afterwards the guest has found something else")
	}
}

func TestProgramEndsAVMMWithoutMemory(t *testing.T) {
	started, guest, o := startPager(t, `"damaged"`)
	guest.order("sum 0 1")
	awaitEnd(t, started)
	end, err := ReadEnd(o.End)
	if err != nil || end.Whole || !strings.Contains(end.Reason, "is damaged") {
		t.Errorf("it ended with %+v (%v)", end, err)
	}
	state, err := guest.cmd.Process.Wait()
	must(t, err)
	if status := state.Sys().(interface{ Signal() unix.Signal }); status.Signal() != unix.SIGKILL {
		t.Errorf("the VMM ended with %v", state)
	}
}

func TestProgramEndsWithItsVMM(t *testing.T) {
	started, guest, o := startPager(t, `"good"`)
	must(t, guest.cmd.Process.Kill())
	awaitEnd(t, started)
	if end, err := ReadEnd(o.End); err != nil || end != (End{}) {
		t.Errorf("it ended with %+v (%v)", end, err)
	}
}
