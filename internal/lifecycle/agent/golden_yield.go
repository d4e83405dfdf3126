package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/meminfo"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// lowest is the least priority that a process can have: sched(7).
const lowest = 19

// lowerPriority makes a VMM run when nobody else wants to: as a task, in the group that the kernel makes of its session (sched(7), autogroup), and in its
// cgroup. Each is missing on some hosts, and counts where the others do not.
func lowerPriority(of vm.Saved) error {
	process := fmt.Sprintf("/proc/%d", of.PID)
	tasks, err := os.ReadDir(filepath.Join(process, "task"))
	for _, task := range tasks { // what they start inherits it
		tid, convErr := strconv.Atoi(task.Name())
		if convErr == nil {
			convErr = unix.Setpriority(unix.PRIO_PROCESS, tid, lowest)
		}
		if !errors.Is(convErr, unix.ESRCH) {
			err = errors.Join(err, convErr)
		}
	}
	err = errors.Join(err, tell(filepath.Join(process, "autogroup"), strconv.Itoa(lowest)))
	if of.Cgroup != "" {
		err = errors.Join(err, tell(filepath.Join(of.Cgroup, "cpu.weight"), "1"))
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

// availableMiB is what programs can still have of the host's memory.
func availableMiB() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	bytes, found := meminfo.Bytes(string(text), "MemAvailable")
	if !found {
		return 0, errors.New("/proc/meminfo does not say what is available")
	}
	return int64(bytes >> 20), nil
}
