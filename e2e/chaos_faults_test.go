package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

const (
	// betweenFaults is the longest time from one fault to the next, and lasting how long most last at most. What comes back must have lived for a while before it is hit again.
	betweenFaults, faultLasts, restOfParts = 6 * time.Second, 8 * time.Second, 20 * time.Second
	// longSilence is longer than a replica may be silent before others take over what it carries out.
	longSilence = 20 * time.Second
)

// fault befalls something; mend, if there is one, ends it.
type fault struct {
	name   string
	target string // that nothing else befalls meanwhile
	strike func() (mend func(), err error)
	lasts  time.Duration
}

// trouble has one fault after the other befall the cluster, as long as ctx. They overlap.
func (x *chaos) trouble(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		f := x.draw(random)
		if x.claim(f.target, f.lasts) {
			x.befall(f)
		}
		select {
		case <-time.After(upTo(random, betweenFaults)):
		case <-ctx.Done():
		}
	}
}

func upTo(random *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(most)))
}

// claim takes what is to be hit, unless it was hit lately.
func (x *chaos) claim(target string, lasts time.Duration) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if time.Now().Before(x.busy[target]) {
		return false
	}
	x.busy[target] = time.Now().Add(lasts + restOfParts)
	return true
}

func (x *chaos) befall(f fault) {
	x.journal.note("FAULT: %s %s for %v", f.name, f.target, f.lasts.Round(time.Millisecond))
	x.count("fault: " + f.name)
	mend, err := f.strike()
	if err != nil {
		x.journal.note("FAULT: %s %s has failed: %v", f.name, f.target, err)
	}
	if mend == nil {
		return
	}
	x.faults.Go(func() {
		time.Sleep(f.lasts)
		mend()
		x.journal.note("FAULT: %s %s has ended", f.name, f.target)
	})
}

// draw draws a fault.
func (x *chaos) draw(random *rand.Rand) fault {
	host, replica := random.IntN(hostsOfCluster), random.IntN(replicasOfCluster)
	agent, control := "agent "+strconv.Itoa(host), "replica "+strconv.Itoa(replica)
	lasts := time.Second/2 + upTo(random, faultLasts)
	silent := lasts
	if x.roundTime == longRound && random.IntN(3) == 0 {
		silent = longSilence
	}
	all := []fault{
		{name: "kill", target: agent, strike: x.signal(x.AgentPID(host), syscall.SIGKILL)},
		{name: "kill", target: control, strike: x.signal(x.ReplicaPID(replica), syscall.SIGKILL)},
		{name: "terminate", target: agent, strike: x.signal(x.AgentPID(host), syscall.SIGTERM)},
		{name: "terminate", target: control, strike: x.signal(x.ReplicaPID(replica), syscall.SIGTERM)},
		{name: "stop", target: agent, lasts: silent, strike: x.freeze(x.AgentPID(host))},
		{name: "stop", target: control, lasts: silent, strike: x.freeze(x.ReplicaPID(replica))},
		{name: "kill", target: "redis", strike: x.signal(x.RedisPID(), syscall.SIGKILL)},
		{name: "stop", target: "redis", lasts: lasts, strike: x.freeze(x.RedisPID())},
		{name: "crash", target: "postgres", strike: x.signal(x.PostgresPID(), syscall.SIGQUIT)},
		{name: "cut connections", target: "postgres connections", strike: x.cutConnections},
		{name: "take away", target: "object store", lasts: lasts, strike: x.takeAway},
		{name: "kill VMM", target: fmt.Sprintf("VMM %d", random.Uint32()), strike: func() (func(), error) { return nil, x.killVMM(random) }},
		{name: "drain", target: "host " + strconv.Itoa(host), lasts: lasts, strike: x.drain(host, random.IntN(2) == 0)},
	}
	return all[random.IntN(len(all))]
}

func (x *chaos) signal(pid int, sig syscall.Signal) func() (func(), error) {
	return func() (func(), error) { return nil, syscall.Kill(pid, sig) }
}

// freeze stops a process for a while, as a machine that is away.
func (x *chaos) freeze(pid int) func() (func(), error) {
	return func() (func(), error) {
		return func() { _ = syscall.Kill(pid, syscall.SIGCONT) }, syscall.Kill(pid, syscall.SIGSTOP)
	}
}

func (x *chaos) cutConnections() (func(), error) {
	_, err := x.tables.Pool.Exec(x.context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
	return nil, err
}

// takeAway has the folder of objects be a link to itself, for a while.
func (x *chaos) takeAway() (func(), error) {
	away := x.Objects() + ".away"
	if err := os.Symlink(filepath.Base(x.Objects()), away); err != nil {
		return nil, err
	}
	// Once it has the other name it leads to itself.
	swap := func() error {
		return unix.Renameat2(unix.AT_FDCWD, x.Objects(), unix.AT_FDCWD, away, unix.RENAME_EXCHANGE)
	}
	if err := swap(); err != nil {
		return nil, errors.Join(err, os.Remove(away))
	}
	return func() {
		if err := errors.Join(swap(), os.Remove(away)); err != nil {
			x.t.Errorf("bring the object store back: %v", err)
		}
	}, nil
}

// killVMM kills one. Its sandbox may have failed then.
func (x *chaos) killVMM(random *rand.Rand) error {
	var all []vmm
	for _, h := range x.hosts {
		all = append(all, h.vmms()...)
	}
	if len(all) == 0 {
		return nil
	}
	one := all[random.IntN(len(all))]
	x.journal.note("FAULT: the VMM of %s is killed", one.sandbox)
	x.mu.Lock()
	x.killed[one.sandbox] = true
	x.mu.Unlock()
	return syscall.Kill(one.pid, syscall.SIGKILL)
}

func (x *chaos) drain(host int, evict bool) func() (func(), error) {
	return func() (func(), error) {
		x.drained.Store(true)
		args := []string{"host", "drain", x.hosts[host].id}
		if evict {
			x.evicted.Store(true)
			args = append(args, "--evict")
		}
		_, err := x.Tool(x.context(), args...)
		return func() { _, _ = x.Tool(x.context(), "host", "undrain", x.hosts[host].id) }, err // heal does it again
	}
}

// heal ends what has not ended by itself, and waits until all replicas reach all hosts.
func (x *chaos) heal() {
	x.t.Helper()
	for _, h := range x.hosts {
		x.eventually("a host is taken into use", func(ctx context.Context) error {
			_, err := x.Tool(ctx, "host", "undrain", h.id)
			return err
		})
	}
	for i, client := range x.clients {
		x.eventually(fmt.Sprintf("replica %d reaches all", i), func(ctx context.Context) error {
			ready, err := client.Ready(ctx)
			if err == nil && ready.Status != "ready" {
				err = fmt.Errorf("%+v", *ready)
			}
			return err
		})
	}
	select {
	case err := <-x.Failed():
		x.t.Fatalf("a part does not run any more: %v", err)
	default:
	}
	x.calm()
}

// calm has no sandbox do anything by itself any more.
func (x *chaos) calm() {
	never := time.Duration(0)
	for _, u := range x.users {
		for _, b := range u.boxes {
			if !b.auto {
				continue
			}
			_, err := x.clients[0].SetLifecycle(x.context(), b.id, wrenn.LifecycleChange{AutoPauseAfter: &never, AutoHibernateAfter: &never})
			x.journal.note("calmly: tend %s: %s", b.id, said(err))
			if err != nil && !x.mayHaveEnded(b) {
				x.fail([]string{fmt.Sprintf("the lifecycle of %s cannot be changed, while nothing is amiss: %s", b.id, said(err))})
			}
		}
	}
}
