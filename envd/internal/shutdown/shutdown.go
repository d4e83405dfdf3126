// Package shutdown ends the guest in order: whoever runs is asked to end, then killed;
// what was written is on the disk; then the machine restarts, which its VMM takes as the
// end. Every step has a limit, so the end comes whatever the guest holds.
package shutdown

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
	"golang.org/x/sys/unix"
)

// How long each step may take. A step that is through earlier makes no one wait.
const (
	terminateTime = 2 * time.Second
	killTime      = 2 * time.Second
	stopTime      = 2 * time.Second
	diskTime      = 20 * time.Second
)

// Guest ends the guest whose PID 1 this process is. Its fields may be set until the first
// call that could end it.
type Guest struct {
	// Reaper is asked to start nothing more, and tells when nothing runs any more. Nil
	// before there is one, when nothing runs.
	Reaper *reap.Reaper
	// Stop closes what envd itself has open. Nil for nothing.
	Stop func()

	console io.Writer
	disks   func(say func(string))
	once    sync.Once
}

// New returns the end of a guest. Console hears why it ends, and what goes wrong then.
func New(console io.Writer) *Guest {
	return &Guest{console: console, disks: closeDisks}
}

// End ends the guest. It does not return; a second call waits for the first. In a process
// that is not PID 1 it ends that process alone: the same calls would end the host.
func (g *Guest) End(reason string) {
	if os.Getpid() != 1 {
		g.say("not PID 1, so only this process ends: " + reason)
		os.Exit(1)
	}
	g.once.Do(func() {
		g.say("the guest ends: " + reason)
		g.endProcesses()
		if g.Stop != nil {
			g.limit(stopTime, "close envd's own connections", g.Stop)
		}
		g.limit(diskTime, "bring the disks in order", func() { g.disks(g.say) })
		g.restart()
	})
	select {}
}

// EndOnSignal ends the guest on the signals that ask an init to do so: SIGTERM, SIGINT
// (Ctrl-Alt-Del) and SIGPWR. It does not return.
func (g *Guest) EndOnSignal() {
	defer g.EndOnPanic()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGPWR)
	g.End("signal " + (<-signals).String())
}

// EndOnPanic turns a panic, in the function that defers it, into the end of the guest: a PID 1 that exits takes
// the kernel with it, and what was written with the kernel.
func (g *Guest) EndOnPanic() {
	if cause := recover(); cause != nil {
		g.say(fmt.Sprintf("panic: %v\n%s", cause, debug.Stack()))
		g.End("panic")
	}
}

func (g *Guest) say(text string) {
	_, _ = io.WriteString(g.console, "envd: "+text+"\n")
}

// endProcesses ends everything but envd and the kernel's threads. A process that a signal
// has stopped is continued, to hear of it. Without a Reaper nothing was ever started.
func (g *Guest) endProcesses() {
	if g.Reaper == nil {
		return
	}
	_ = unix.Kill(-1, unix.SIGTERM)
	_ = unix.Kill(-1, unix.SIGCONT)
	if g.drain(terminateTime) {
		return
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	if !g.drain(killTime) {
		g.say("processes are left that cannot be killed")
	}
}

// drain reports whether every process has ended within the time.
func (g *Guest) drain(limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return g.Reaper.Drain(ctx) == nil
}

// limit does something for as long as it may take and goes on without it then.
func (g *Guest) limit(limit time.Duration, name string, do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		g.say(name + ": not done after " + limit.String())
	}
}

// restart restarts the machine. It is the one end that every VMM sees: Firecracker and
// QEMU with -no-reboot exit.
func (g *Guest) restart() {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		g.say("restart: " + err.Error())
	}
}
