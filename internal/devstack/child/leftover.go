package child

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// leftoverPatience is how long a left-over process may take to end before the next, harder signal.
const leftoverPatience = 15 * time.Second

// EndLeftover ends the process that an earlier owner of a folder left behind: the one that is
// named in the first line of pidFile, if its working directory is cwd. A pid that meanwhile belongs to another process is
// left alone. The signals are sent one after the other, 15 s apart, until it is gone; then the pid file is removed.
func EndLeftover(ctx context.Context, pidFile, cwd string, signals ...syscall.Signal) error {
	b, err := os.ReadFile(pidFile)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pid file: %w", err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	if pid, err := strconv.Atoi(strings.TrimSpace(first)); err == nil && pid > 1 {
		if err := endProcess(ctx, pid, cwd, signals); err != nil {
			return err
		}
	}
	if err := os.Remove(pidFile); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove stale pid file: %w", err)
	}
	return nil
}

// endProcess signals pid, if it works in cwd, until it is gone. The process is opened
// before it is looked at, so that the signal cannot reach a successor.
func endProcess(ctx context.Context, pid int, cwd string, signals []syscall.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil // gone
	}
	defer func() { _ = p.Release() }() // fails only when it was released before
	if !WorksIn(pid, cwd) {
		return nil
	}
	for _, sig := range signals {
		if p.Signal(sig) != nil || gone(ctx, p) {
			return nil
		}
	}
	return fmt.Errorf("process %d of an earlier start in %s does not end", pid, cwd)
}

// WorksIn tells whether dir is the working directory of process pid.
func WorksIn(pid int, dir string) bool {
	have, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return false
	}
	want, err := filepath.EvalSymlinks(dir)
	return err == nil && have == want
}

// gone waits until p has ended, at most leftoverPatience and until ctx ends.
func gone(ctx context.Context, p *os.Process) bool {
	ctx, cancel := context.WithTimeout(ctx, leftoverPatience)
	defer cancel()
	return Poll(ctx, func() bool { return p.Signal(syscall.Signal(0)) != nil }) == nil
}

// Poll asks done with growing pauses (2 ms to 50 ms) until it is true or ctx ends.
func Poll(ctx context.Context, done func() bool) error {
	for pause := 2 * time.Millisecond; !done(); pause = min(2*pause, 50*time.Millisecond) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
	return nil
}
