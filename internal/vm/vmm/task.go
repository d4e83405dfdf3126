package vmm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// task is a process as one of its threads shows it, with what proc_pid_status(5) says of that.
type task struct {
	dir   string // its folder in /proc; "" for none
	state string // Z if it has ended
	users []string
}

// liveTask returns a thread of the process that has not ended: the first one, by which the process goes, may have ended before the others, and has
// nothing to show then.
func liveTask(pid int) task {
	dir := fmt.Sprintf("/proc/%d", pid)
	if t := readTask(dir); t.state != "Z" {
		return t
	}
	threads, err := os.ReadDir(filepath.Join(dir, "task"))
	if err != nil {
		return task{}
	}
	for _, entry := range threads {
		if t := readTask(filepath.Join(dir, "task", entry.Name())); t.dir != "" && t.state != "Z" {
			return t
		}
	}
	return task{}
}

func readTask(dir string) task {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return task{}
	}
	t := task{dir: dir}
	for line := range strings.Lines(string(status)) {
		switch key, value, _ := strings.Cut(line, ":"); key {
		case "State":
			t.state, _, _ = strings.Cut(strings.TrimSpace(value), " ")
		case "Uid": // real, effective, saved and file system's
			t.users = strings.Fields(value)
		}
	}
	return t
}

// runsAs reports whether it is nobody else's either: a set-user-ID program has its caller's id as well.
func (t task) runsAs(id uint32) bool {
	other := func(field string) bool { return field != strconv.FormatUint(uint64(id), 10) }
	return len(t.users) > 0 && !slices.ContainsFunc(t.users, other)
}

// environment returns a variable; "" if there is none.
func (t task) environment(name string) string {
	environ, err := os.ReadFile(filepath.Join(t.dir, "environ"))
	if err != nil {
		return ""
	}
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if value, found := strings.CutPrefix(string(entry), name+"="); found {
			return value
		}
	}
	return ""
}

// hasMounted reports whether its mount table has a file, also one that was removed meanwhile.
func (t task) hasMounted(file place) bool {
	return slices.ContainsFunc(mountsOf(t.dir), func(m mount) bool {
		return m.device == file.device && strings.TrimSuffix(m.root, "//deleted") == file.path
	})
}
