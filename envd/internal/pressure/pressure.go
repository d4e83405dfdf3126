// Package pressure ends programs that keep a guest from making headway for want of memory.
//
// Without swap, a cgroup near its limit evicts the pages of its own programs and reads them back, over and over, before the
// kernel finds that nothing can be reclaimed and kills somebody: for seconds, on a slow disk for minutes. The kernel measures what is
// lost to that (PSI, Documentation/accounting/psi.rst), and says so by poll(2) to who has asked.
package pressure

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Within window somebody has to have waited for memory for stall, several times in a row, before anybody is killed.
	window, stall = time.Second, 400 * time.Millisecond
	inARow        = 2
	// spare is the part of the limit below which what the kernel could reclaim is too little to work with. Above it the waiting is
	// for a cache that is written and read a lot, which harms nobody.
	spare = 1.0 / 10
)

// Watcher watches one cgroup v2 folder.
type Watcher struct {
	group string
	fd    int
}

// New returns a watcher, which the caller closes. The kernel polls for it only while somebody waits for memory.
func New(group string) (*Watcher, error) {
	fd, err := unix.Open(filepath.Join(group, "memory.pressure"), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open memory.pressure: %w", err)
	}
	trigger := fmt.Sprintf("some %d %d\x00", stall.Microseconds(), window.Microseconds())
	if _, err := unix.Write(fd, []byte(trigger)); err != nil {
		_ = unix.Close(fd) // err says more
		return nil, fmt.Errorf("ask for the pressure on memory: %w", err)
	}
	return &Watcher{group: group, fd: fd}, nil
}

// Close frees what the watcher holds. Wait must not be under way.
func (w *Watcher) Close() { _ = unix.Close(w.fd) }

// Wait returns when somebody has to be killed. It keeps a thread of its own, as epoll(7) in the runtime does not ask for POLLPRI.
func (w *Watcher) Wait() error {
	var last time.Time
	for times := 0; ; {
		if err := w.poll(); err != nil {
			return err
		}
		if time.Since(last) > 2*window {
			times = 0
		}
		last = time.Now()
		if times++; times < inARow {
			continue
		}
		if short, err := w.short(); short || err != nil {
			return err
		}
	}
}

// poll waits for a window with too long a stall.
func (w *Watcher) poll() error {
	fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLPRI}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the pressure on memory: %w", err)
		case fds[0].Revents&unix.POLLERR != 0:
			return errors.New("the cgroup is gone")
		case fds[0].Revents&unix.POLLPRI != 0:
			return nil
		}
	}
}

// short reports whether the cgroup holds next to nothing that the kernel could reclaim. Without a limit it is never short.
func (w *Watcher) short() (bool, error) {
	text, err := os.ReadFile(filepath.Join(w.group, "memory.max"))
	if err != nil {
		return false, err
	}
	limit, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return false, nil //nolint:nilerr // "max"
	}
	stat, err := os.ReadFile(filepath.Join(w.group, "memory.stat"))
	if err != nil {
		return false, err
	}
	return float64(reclaimable(stat)) < spare*float64(limit), nil
}

// reclaimable reads memory.stat of cgroups(7): the cache of files but for what only memory holds.
func reclaimable(stat []byte) int64 {
	var bytesOf int64
	for line := range bytes.Lines(stat) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
		case name == "file", name == "slab_reclaimable":
			bytesOf += n
		case name == "shmem":
			bytesOf -= n
		}
	}
	return bytesOf
}
