package reap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxVictims is how many processes of a cgroup are killed one by one. One that needs more has a crowd in it, and is killed whole.
const maxVictims = 3

// ErrNoVictim says that nothing that was started holds memory.
var ErrNoVictim = errors.New("there is nothing to kill")

// KillLargest kills the largest process of that child's cgroup that holds most memory, much as the kernel would, and says which it
// was. The child's OOMKilled then is true.
func (r *Reaper) KillLargest() (string, error) {
	var largest *group
	var most uint64
	for _, g := range r.groups.all() {
		if held := g.memory(); held > most {
			largest, most = g, held
		}
	}
	if largest == nil {
		return "", ErrNoVictim
	}
	return largest.killLargest()
}

// memory returns how many bytes the cgroup is charged with, as far as that can be told.
func (g *group) memory() uint64 {
	text, err := os.ReadFile(filepath.Join(g.path, "memory.current"))
	if err != nil {
		return 0 // it is gone
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// killLargest kills the process with most memory of its own, or after some of these all of them.
func (g *group) killLargest() (string, error) {
	if g.victims.Add(1) <= maxVictims {
		if pid := g.largest(); pid != 0 {
			return g.killMember(pid)
		}
	}
	_, err := g.kill()
	return "all of " + filepath.Base(g.path), err
}

// largest returns the pid of the process with most resident pages; 0 where the cgroup has none of its own.
func (g *group) largest() (largest int) {
	text, _ := os.ReadFile(filepath.Join(g.path, "cgroup.procs")) // a cgroup that is gone has none
	most := int64(-1)
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			continue
		}
		if pages := residentPages(pid); pages > most {
			largest, most = pid, pages
		}
	}
	return largest
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

// killMember kills a process of the cgroup and nobody who got its pid meanwhile: the pidfd is of the process that is
// found in the cgroup after it was opened.
func (g *group) killMember(pid int) (string, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return "", fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	member, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || filepath.Base(strings.TrimSpace(string(member))) != filepath.Base(g.path) {
		return "", fmt.Errorf("process %d has left its cgroup", pid)
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return "", fmt.Errorf("kill process %d: %w", pid, err)
	}
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name))), nil
}
