package vmtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// stock is what this process holds.
type stock struct {
	descriptors map[string]int // how many of each kind
	goroutines  int
	children    []int
	files       []string // in the working directory
}

func takeStock() stock {
	return stock{
		descriptors: openDescriptors(), goroutines: runtime.NumGoroutine(),
		children: children(), files: names("."),
	}
}

// checkLeftovers fails the case for whatever it left behind: processes, descriptors, goroutines, and files outside
// the folders of its VMs. What is just about to go is waited for.
func (w *world) checkLeftovers(before stock, tmp string) {
	var problem string
	if poll(10*time.Second, func() bool {
		problem = w.leftover(before, takeStock(), tmp)
		return problem == ""
	}) {
		return
	}
	w.Errorf("left over: %s", problem)
	if strings.HasPrefix(problem, "goroutines") {
		stacks := make([]byte, 1<<20)
		w.Logf("%s", stacks[:runtime.Stack(stacks, true)])
	}
}

func (w *world) leftover(before, now stock, tmp string) string {
	for _, dir := range w.dirs() {
		if pids, err := vmm.Find(w.mark(dir)); err != nil || len(pids) > 0 {
			return fmt.Sprintf("processes %v of %s (%v)", pids, dir, err)
		}
	}
	for kind, n := range now.descriptors {
		if n > before.descriptors[kind] {
			return fmt.Sprintf("descriptors: %d of %s, %d before", n, kind, before.descriptors[kind])
		}
	}
	switch {
	case now.goroutines > before.goroutines:
		return fmt.Sprintf("goroutines: %d, %d before", now.goroutines, before.goroutines)
	case len(now.children) > len(before.children):
		return fmt.Sprintf("children %v, %v before", now.children, before.children)
	case !slices.Equal(now.files, before.files):
		return fmt.Sprintf("files in the working directory: %v, %v before", now.files, before.files)
	case len(names(tmp)) > 0:
		return fmt.Sprintf("temporary files: %v", names(tmp))
	}
	return w.strayFiles(tmp)
}

// strayFiles looks for files beside the VMs' folders.
func (w *world) strayFiles(tmp string) string {
	expected := append(w.dirs(), tmp)
	for _, name := range names(w.root) {
		if path := filepath.Join(w.root, name); !slices.Contains(expected, path) {
			return "file " + path
		}
	}
	return ""
}

// openDescriptors counts descriptors by what they refer to. The runtime's own, of which there is one each once it
// needs them, are left out.
func openDescriptors() map[string]int {
	count := make(map[string]int)
	for _, fd := range names("/proc/self/fd") {
		target, err := os.Readlink("/proc/self/fd/" + fd)
		if err != nil || target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" {
			continue
		}
		kind, _, _ := strings.Cut(target, ":[")
		count[kind]++
	}
	return count
}

// children lists the processes, zombies too, whose parent this one is.
func children() []int {
	var found []int
	for _, name := range names("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		const parent = 4
		if fields, err := stat(pid); err == nil && fields[parent] == strconv.Itoa(os.Getpid()) {
			found = append(found, pid)
		}
	}
	return found
}

// stat returns the fields of /proc/pid/stat, from 1 up as proc_pid_stat(5) counts them; fields 1 and 2 are left empty.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	rest := string(text[bytes.LastIndexByte(text, ')')+1:])
	return append(make([]string, 3), strings.Fields(rest)...), nil
}

// cpuTime returns the user and system time of a process: fields 14 and 15, in ticks of 10 ms, which is what
// USER_HZ is on every x86 machine.
func cpuTime(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, field := range fields[14:16] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// names lists a folder, sorted; nothing if it cannot be read.
func names(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	list, _ := f.Readdirnames(-1)
	slices.Sort(list)
	return list
}
