package vmtest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

func (w *world) askToShutDown(running vm.Running) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := call(ctx, running, http.MethodPost, "/shutdown", nil)
		return err
	}
}

func stopOrderly(w *world) {
	running := w.boot(w.spec())
	exit, err := running.Stop(w.ctx(), w.askToShutDown(running))
	w.must(err)
	if !exit.Known || exit.Code != 0 || exit.Signal != 0 || !exit.Asked || exit.Reason != "" {
		w.Errorf("exit after Stop: %+v, want an orderly one", exit)
	}
	w.checkEnded(running, exit)
}

func stopIgnored(w *world) {
	running := w.boot(w.spec(guestapp.IgnoreShutdown))
	ctx, cancel := context.WithTimeout(w.ctx(), 2*time.Second)
	defer cancel()
	exit, err := running.Stop(ctx, w.askToShutDown(running))
	w.must(err)
	if !exit.Known || exit.Signal != int(syscall.SIGKILL) || !exit.Asked {
		w.Errorf("exit of a guest that ignored Stop: %+v, want SIGKILL", exit)
	}
	if ctx.Err() == nil {
		w.Error("the guest was killed before its time was up")
	}
	w.checkEnded(running, exit)
}

// stopUnreachable holds that a guest which cannot be asked is not waited for until the end.
func stopUnreachable(w *world) {
	running := w.start(w.spec(guestapp.Hang))
	ctx := w.ctx()
	exit, err := running.Stop(ctx, func(context.Context) error { return errors.New("nobody there") })
	w.must(err)
	if exit.Signal != int(syscall.SIGKILL) || ctx.Err() != nil {
		w.Errorf("exit of a guest that could not be asked: %+v, %v", exit, ctx.Err())
	}
	w.checkEnded(running, exit)
}

// checkEnded holds that nothing changes about a VM that has ended.
func (w *world) checkEnded(running vm.Running, exit vm.Exit) {
	w.Helper()
	select {
	case <-running.Done():
	default:
		w.Error("Done is not closed")
	}
	if got := running.Exit(); got != exit {
		w.Errorf("Exit changed from %+v to %+v", exit, got)
	}
	if got, err := running.Kill(); err != nil || got != exit {
		w.Errorf("Kill once more: %+v, %v", got, err)
	}
	ask := func(context.Context) error { return nil }
	if got, err := running.Stop(w.ctx(), ask); err != nil || got != exit {
		w.Errorf("Stop once more: %+v, %v", got, err)
	}
	if err := running.Release(); err != nil {
		w.Errorf("Release of a VM that has ended: %v", err)
	}
}

func killIdempotent(w *world) {
	running := w.boot(w.spec())
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if exit, err := running.Kill(); err != nil || exit.Signal != int(syscall.SIGKILL) {
				w.Errorf("Kill: %+v, %v", exit, err)
			}
		})
	}
	group.Wait()
	w.checkEnded(running, running.Exit())
}

func killedFromOutside(w *world) {
	running := w.boot(w.spec())
	w.must(syscall.Kill(running.Saved().PID, syscall.SIGKILL))
	exit := w.waitDone(running)
	if !exit.Known || exit.Signal != int(syscall.SIGKILL) || exit.Asked {
		w.Errorf("exit of a VMM that was killed from outside: %+v", exit)
	}
	if !strings.Contains(exit.Reason, "killed") {
		w.Errorf("reason %q does not say that it was killed", exit.Reason)
	}
	w.checkEnded(running, exit)
}

func guestEndsItself(w *world) {
	for path, want := range map[string]string{
		"/panic":   "Kernel panic - not syncing: sysrq triggered crash",
		"/exit":    "Kernel panic - not syncing: Attempted to kill init!",
		"/restart": "", // a reason in the driver's own words
	} {
		running := w.boot(w.spec())
		w.call(running, http.MethodPost, path, nil)
		exit := w.waitDone(running)
		if exit.Asked || exit.Signal != 0 || exit.Reason == "" || !strings.HasPrefix(exit.Reason, want) {
			w.Errorf("after %s: %+v, want the reason %q", path, exit, want)
		}
		w.checkEnded(running, exit)
	}
}
