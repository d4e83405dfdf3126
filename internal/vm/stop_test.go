package vm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// guest is a VMM that ends some time after it was asked to, or when it is killed.
type guest struct {
	done   chan struct{}
	killed time.Duration // when; 0 for never
	start  time.Time
}

func newGuest() *guest { return &guest{done: make(chan struct{}), start: time.Now()} }

func (g *guest) kill() (Exit, error) {
	select {
	case <-g.done:
	default:
		g.killed = time.Since(g.start)
		close(g.done)
	}
	return Exit{Asked: true}, nil
}

func TestStopOrKill(t *testing.T) {
	for name, c := range map[string]struct {
		ask    func(*guest) func(context.Context) error
		killed time.Duration // 0 for not at all
		took   time.Duration
	}{
		"obeys": {
			ask: func(g *guest) func(context.Context) error {
				return func(context.Context) error { time.AfterFunc(3*time.Second, func() { close(g.done) }); return nil }
			},
			took: 3 * time.Second,
		},
		"obeys and cuts the connection": {
			ask: func(g *guest) func(context.Context) error {
				return func(context.Context) error {
					time.AfterFunc(100*time.Millisecond, func() { close(g.done) })
					return errors.New("EOF")
				}
			},
			took: 100 * time.Millisecond,
		},
		"ignores": {
			ask:    func(*guest) func(context.Context) error { return func(context.Context) error { return nil } },
			killed: 10 * time.Second, took: 10 * time.Second,
		},
		"cannot be asked": {
			ask: func(*guest) func(context.Context) error {
				return func(context.Context) error { return errors.New("refused") }
			},
			killed: time.Second, took: time.Second,
		},
		"ends without an answer": {
			ask: func(g *guest) func(context.Context) error {
				return func(ctx context.Context) error {
					time.AfterFunc(2*time.Second, func() { close(g.done) })
					<-ctx.Done()
					return ctx.Err()
				}
			},
			took: 2 * time.Second,
		},
		"never answers": {
			ask: func(*guest) func(context.Context) error {
				return func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			},
			killed: 10 * time.Second, took: 10 * time.Second,
		},
		"nothing to ask": {
			ask:    func(*guest) func(context.Context) error { return nil },
			killed: 10 * time.Second, took: 10 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				g := newGuest()
				exit, err := StopOrKill(ctx, c.ask(g), g.done, g.kill)
				if err != nil || !exit.Asked {
					t.Errorf("%+v, %v", exit, err)
				}
				if took := time.Since(g.start); took != c.took || g.killed != c.killed {
					t.Errorf("took %v, killed after %v; want %v, %v", took, g.killed, c.took, c.killed)
				}
			})
		})
	}
}
