package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dying is how long a victim may take to end, in which its memory comes back. The next would be killed for nothing.
const dying = 10 * time.Second

// maxVictims is how many processes of a child's cgroup are killed one by one. One that needs more has a crowd in it, and is killed whole.
const maxVictims = 3

// ErrNoVictim says that nothing that was started holds memory.
var ErrNoVictim = errors.New("there is nothing to kill")

// KillLargest kills the process with most memory of its own among all in the children's cgroups, as the kernel would, and says which
// it was. Its child's OOMKilled then is true.
func (r *Reaper) KillLargest() (string, error) {
	var victim int
	var of *group
	most := int64(0)
	for _, g := range r.groups.all() {
		for _, pid := range g.members() {
			if pages := residentPages(pid); pages > most {
				victim, of, most = pid, g, pages
			}
		}
	}
	if of == nil {
		return "", ErrNoVictim
	}
	return of.killFor(victim)
}

// members returns the pids in the cgroup and in those that root in the guest has made below it.
func (g *group) members() (pids []int) {
	_ = filepath.WalkDir(g.path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "cgroup.procs" {
			return nil //nolint:nilerr // what is gone has no members
		}
		text, _ := os.ReadFile(path) // likewise
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// residentPages reads the second number of /proc/PID/statm, proc(5).
func residentPages(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if fields := strings.Fields(string(text)); err == nil && len(fields) > 1 {
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		return n
	}
	return -1
}

// killFor kills one process for want of memory, or after some of these the whole cgroup.
func (g *group) killFor(pid int) (string, error) {
	if g.victims.Add(1) <= maxVictims {
		return g.killMember(pid)
	}
	_, err := g.kill()
	return "all of " + filepath.Base(g.path), err
}

// killMember kills a process of the cgroup and nobody who got its pid meanwhile: the pidfd is of the process that is
// found in the cgroup after it was opened.
func (g *group) killMember(pid int) (string, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return "", fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	member, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !slices.Contains(strings.Split(strings.TrimSpace(string(member)), "/"), filepath.Base(g.path)) {
		return "", fmt.Errorf("process %d has left its cgroup", pid)
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return "", fmt.Errorf("kill process %d: %w", pid, err)
	}
	awaitEnd(fd)
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name))), nil
}

// awaitEnd waits a while for the process of a pidfd to end.
func awaitEnd(pidfd int) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for end := time.Now().Add(dying); time.Now().Before(end); {
		if _, err := unix.Poll(fds, int(dying.Milliseconds())); err != unix.EINTR {
			return
		}
	}
}
