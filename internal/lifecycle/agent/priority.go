package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/cgroup"
	"github.com/wrenn-sandbox/wrenn/internal/meminfo"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// priority is how much a VMM has of processors that others want too.
type priority struct {
	nice   int // sched(7)
	weight int // of its cgroup
}

// last is the priority of who runs when nobody else wants to.
var last = priority{nice: 19, weight: 1}

// usual is the priority of a sandbox.
func usual(size models.Size) priority {
	return priority{weight: cgroup.Weight(float64(size.VCPUs) + vmmCPUs)}
}

// setBack gives a VM that nobody waits for the least priority.
func (a *Agent) setBack(machine vm.Running) {
	if err := a.cfg.prioritize(machine.Saved(), last); err != nil {
		a.log.Warn("a VM that nobody waits for has the priority of a sandbox", "error", err)
	}
}

// setPriority sets that of a VMM: as a task, in the group that the kernel makes of its session (sched(7), autogroup), and in its
// cgroup. Each is missing on some hosts, and counts where the others do not.
func setPriority(of vm.Saved, p priority) error {
	process := fmt.Sprintf("/proc/%d", of.PID)
	tasks, err := os.ReadDir(filepath.Join(process, "task"))
	for _, task := range tasks { // what they start inherits it
		tid, convErr := strconv.Atoi(task.Name())
		if convErr == nil {
			convErr = unix.Setpriority(unix.PRIO_PROCESS, tid, p.nice)
		}
		if !errors.Is(convErr, unix.ESRCH) {
			err = errors.Join(err, convErr)
		}
	}
	err = errors.Join(err, tell(filepath.Join(process, "autogroup"), strconv.Itoa(p.nice)))
	if of.Cgroup != "" {
		err = errors.Join(err, tell(filepath.Join(of.Cgroup, "cpu.weight"), strconv.Itoa(p.weight)))
	}
	return err
}

// tell writes to a file of the kernel's, if there is one.
func tell(path, text string) error {
	err := os.WriteFile(path, []byte(text), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// hostMemory is what the host has of memory, and what of it programs can still have, in MiB.
func hostMemory() (total, available int64, err error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	all, found := meminfo.Bytes(string(text), "MemTotal")
	free, foundToo := meminfo.Bytes(string(text), "MemAvailable")
	if !found || !foundToo {
		return 0, 0, errors.New("/proc/meminfo does not say what is available")
	}
	return int64(all >> 20), int64(free >> 20), nil
}
