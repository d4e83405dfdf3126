// Package pressure ends programs that keep a guest from making headway for want of memory.
//
// Without swap, a cgroup near its limit evicts the pages of its own programs and reads them back, over and over, before the
// kernel finds that nothing can be reclaimed and kills somebody: for seconds, on a slow disk for minutes. The kernel measures what is
// lost to that (PSI, Documentation/accounting/psi.rst), and says so by poll(2) to who has asked.
package pressure

import (
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
	// Below this part of the limit, or below spareMost, the room that is left is too little to work with. Above it the waiting is
	// for a cache that is written and read a lot, which harms nobody.
	spareShare, spareMost = 10, 64 << 20
	// againShare is the part of the room that has to have been read back from window to window. Who copies files through little
	// room waits for memory too, but reads each of them once.
	againShare = 4
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
	var before memory
	for times := 0; ; {
		if err := w.poll(); err != nil {
			return err
		}
		now, err := w.look()
		if err != nil {
			return err
		}
		if time.Since(last) > 2*window {
			times = 0
		}
		if times++; times >= inARow && now.thrashes(before) {
			return nil
		}
		last, before = time.Now(), now
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

// memory is how a cgroup stands.
type memory struct {
	limit int64 // 0: none
	room  int64 // what it may take yet, and what the kernel could reclaim
	again int64 // bytes that were ever read back into the cache of files after they had been evicted
}

// thrashes reports whether there is next to no room, through which the same is read over and over.
func (m memory) thrashes(before memory) bool {
	return m.room < min(m.limit/spareShare, spareMost) && m.again-before.again >= m.room/againShare
}

// look reads the cgroup's files, see cgroups(7).
func (w *Watcher) look() (m memory, err error) {
	limit, err := w.read("memory.max")
	if err != nil {
		return m, err
	}
	if m.limit, err = strconv.ParseInt(limit, 10, 64); err != nil {
		return memory{}, nil //nolint:nilerr // "max"
	}
	current, err := w.read("memory.current")
	if err != nil {
		return m, err
	}
	taken, err := strconv.ParseInt(current, 10, 64)
	if err != nil {
		return m, err
	}
	m.room = m.limit - taken
	stat, err := w.read("memory.stat")
	m.add(stat)
	return m, err
}

// read reads a file of the cgroup.
func (w *Watcher) read(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(w.group, name))
	return strings.TrimSpace(string(text)), err
}

// add adds what memory.stat says: the cache of files but for what only memory holds can be reclaimed.
func (m *memory) add(stat string) {
	for line := range strings.Lines(stat) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
		case name == "file", name == "slab_reclaimable":
			m.room += n
		case name == "shmem":
			m.room -= n
		case name == "workingset_refault_file":
			m.again += n * int64(os.Getpagesize())
		}
	}
}
