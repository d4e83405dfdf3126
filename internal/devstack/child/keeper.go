package child

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// StartFunc starts a process and returns once it is ready for use. After an error
// nothing of it runs.
type StartFunc func(ctx context.Context) (*Process, error)

// Policy says how a process is kept running. The zero value is usable.
type Policy struct {
	Logger *slog.Logger // nil: slog.Default()
	// A process that lived at least Healthy clears its record; 0 means 10 s.
	Healthy time.Duration
	// After so many lives in a row shorter than Healthy the keeper gives up; 0 means 5.
	MaxQuickDeaths int
	// The pause before the first restart, doubled each time up to 30 times as much; 0 means 200 ms.
	Backoff time.Duration
	// How it is stopped in the end; none means SIGKILL.
	Stop []Step
	// Called once if the keeper gives up, from its goroutine; nil for nobody.
	GaveUp func(error)
}

// Keeper keeps one process running until it is stopped or gives up.
type Keeper struct {
	name   string
	start  StartFunc
	policy Policy

	stop context.CancelFunc // ends the context that everything in run obeys
	done chan struct{}

	mu      sync.Mutex // guards process
	process *Process
}

// Keep starts a process, waits until start says that it is ready, and from then on
// starts it again whenever it ends. An error of the first start is returned at once:
// nothing runs then. The caller must call Stop.
func Keep(ctx context.Context, name string, start StartFunc, policy Policy) (*Keeper, error) {
	k := &Keeper{name: name, start: start, policy: policy.withDefaults(), done: make(chan struct{})}
	p, err := start(ctx)
	if err != nil {
		return nil, err
	}
	k.process = p
	stopping, stop := context.WithCancel(context.WithoutCancel(ctx)) // ctx bounds the start only
	k.stop = stop
	go k.run(stopping, p)
	return k, nil
}

func (p Policy) withDefaults() Policy {
	if p.Logger == nil {
		p.Logger = slog.Default()
	}
	if p.Healthy == 0 {
		p.Healthy = 10 * time.Second
	}
	if p.MaxQuickDeaths == 0 {
		p.MaxQuickDeaths = 5
	}
	if p.Backoff == 0 {
		p.Backoff = 200 * time.Millisecond
	}
	return p
}

// PID is the process id of the latest process.
func (k *Keeper) PID() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.process.PID()
}

// Stop ends the process as the policy says, and at the latest when ctx ends. It
// returns when nothing runs any more and may be called again.
func (k *Keeper) Stop(ctx context.Context) {
	k.stop()
	k.mu.Lock()
	p := k.process
	k.mu.Unlock()
	p.Stop(ctx, k.policy.Stop...)
	<-k.done
}

// run waits for the end of each life and starts the next one. A start that fails counts as
// a life of no length, however long it took to fail.
func (k *Keeper) run(stopping context.Context, p *Process) {
	defer close(k.done)
	born, quick := time.Now(), 0
	err := p.Err()
	for stopping.Err() == nil {
		if quick++; time.Since(born) >= k.policy.Healthy {
			quick = 1
		}
		if quick >= k.policy.MaxQuickDeaths {
			k.giveUp(quick, err)
			return
		}
		k.policy.Logger.Warn("process ended and is started again", "process", k.name, "cause", describe(err), "try", quick)
		if !k.pause(stopping, quick) {
			return
		}
		p, err = k.next(stopping)
		if born = time.Now(); err == nil {
			err = p.Err()
		}
	}
}

// next starts the next process. When Stop came in the meantime it ends it again,
// because Stop may have looked at the one before.
func (k *Keeper) next(stopping context.Context) (*Process, error) {
	p, err := k.start(stopping)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	k.process = p
	k.mu.Unlock()
	if stopping.Err() != nil {
		p.Stop(context.WithoutCancel(stopping), k.policy.Stop...) // bounded by the steps' graces
	}
	return p, nil
}

func (k *Keeper) pause(stopping context.Context, quick int) bool {
	wait := min(k.policy.Backoff<<(quick-1), 30*k.policy.Backoff)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stopping.Done():
		return false
	}
}

func (k *Keeper) giveUp(deaths int, last error) {
	if k.policy.GaveUp != nil {
		k.policy.GaveUp(fmt.Errorf("%s ended %d times in quick succession, the last time with: %s", k.name, deaths, describe(last)))
	}
}

func describe(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}
