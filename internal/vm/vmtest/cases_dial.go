package vmtest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

// dialWaits dials before the guest can possibly listen.
func dialWaits(w *world) {
	running := w.start(w.spec())
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := health(w.ctx(), running); err != nil {
				w.Errorf("dial during boot: %v", err)
			}
		})
	}
	group.Wait()
}

func dialCancelled(w *world) {
	running := w.start(w.spec(guestapp.Hang))
	ctx, cancel := context.WithTimeout(w.ctx(), 300*time.Millisecond)
	defer cancel()
	if _, err := running.Dial(ctx, guestapp.HTTPPort); !errors.Is(err, context.DeadlineExceeded) {
		w.Errorf("Dial of a guest that never listens: %v", err)
	}
	ctx, cancel = context.WithCancel(w.ctx())
	cancel()
	if _, err := running.Dial(ctx, guestapp.HTTPPort); !errors.Is(err, context.Canceled) {
		w.Errorf("Dial with a cancelled context: %v", err)
	}
	healthy := w.boot(w.spec())
	if _, err := healthy.Dial(ctx, guestapp.HTTPPort); !errors.Is(err, context.Canceled) {
		w.Errorf("Dial of a healthy guest with a cancelled context: %v", err)
	}
	ctx, cancel = context.WithTimeout(w.ctx(), 300*time.Millisecond)
	defer cancel()
	if conn, err := healthy.Dial(ctx, 1); err == nil {
		conn.Close()
		w.Error("Dial of a port that nothing listens on succeeded")
	}
	w.checkHealth(healthy)
}

// dialDead holds that a Dial ends when the VMM does, and that later ones fail at once.
func dialDead(w *world) {
	running := w.start(w.spec(guestapp.Hang))
	failed := make(chan error, 1)
	go func() {
		_, err := running.Dial(w.ctx(), guestapp.HTTPPort)
		failed <- err
	}()
	_, err := running.Kill()
	w.must(err)
	for _, err := range []error{<-failed, dialError(w.ctx(), running)} {
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("Dial of a dead VMM: %v", err)
		}
	}
}

func dialError(ctx context.Context, running vm.Running) error {
	_, err := running.Dial(ctx, guestapp.HTTPPort)
	return err
}

func dialAtOnce(w *world) {
	running := w.boot(w.spec())
	body := strings.Repeat("x", 100_000)
	want := w.call(running, http.MethodPost, "/digest", strings.NewReader(body))
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			got, err := call(w.ctx(), running, http.MethodPost, "/digest", strings.NewReader(body))
			if err != nil || got != want {
				w.Errorf("one of 32 calls at once: %q, %v", got, err)
			}
		})
	}
	group.Wait()
}
