package reap

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// groups makes the children's cgroups, one of them ahead: to make a cgroup takes longer than to start a program in it. So what is to be done for the next child is done
// when one has ended and its end was told.
type groups struct {
	parent string

	mu     sync.Mutex // guards what follows
	next   uint64
	made   []*group // that may still be there
	spare  *group   // that nobody has been in, nil for none
	closed bool     // no more are made ahead
}

// Cgroups of children that have ended are removed, and another one is made ahead, tidyAfter a call of Tidy, else tidyLatest after an end.
const tidyAfter, tidyLatest = 5 * time.Millisecond, time.Second

// group is the cgroup of one child and of all that it starts. A nil group is none.
type group struct {
	path    string
	dir     *os.File
	ended   atomic.Bool // whether the child has ended, so that the cgroup may be empty
	removed atomic.Bool
	victims atomic.Int32 // how often somebody of it was killed by killFor
}

// add makes a cgroup and lets cmd start in it: the kernel puts the child there before
// it runs, so nothing that it starts can be elsewhere. A cgroup that cannot be made is
// done without, since root in the guest may have taken the tree apart.
func (g *groups) add(cmd *exec.Cmd) *group {
	if g.parent == "" {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	group := g.spare
	if g.spare = nil; !group.usable() {
		group = g.make()
	}
	if group == nil {
		return nil
	}
	g.made = append(g.made, group)
	attr := syscall.SysProcAttr{}
	if cmd.SysProcAttr != nil {
		attr = *cmd.SysProcAttr
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(group.dir.Fd())
	cmd.SysProcAttr = &attr
	return group
}

// make returns a new cgroup, or nil. The caller holds mu.
func (g *groups) make() *group {
	g.next++
	path := filepath.Join(g.parent, "p"+strconv.FormatUint(g.next, 10))
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		_ = unix.Rmdir(path)
		return nil
	}
	return &group{path: path, dir: dir}
}

// usable reports whether a cgroup that was made earlier is still there.
func (g *group) usable() bool {
	if g == nil {
		return false
	}
	err := unix.Faccessat(int(g.dir.Fd()), "cgroup.procs", unix.F_OK, 0)
	if err != nil {
		_ = g.dir.Close()
	}
	return err == nil
}

// tidy removes the cgroups of ended children in which nothing runs any more, and sees to it that there is one for the next child. One that
// outlived its child because of what the child left behind goes with the end of a later one.
func (g *groups) tidy() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.made = slices.DeleteFunc(g.made, func(group *group) bool { return group.ended.Load() && group.remove() })
	if g.spare == nil && !g.closed {
		g.spare = g.make()
	}
}

// close removes the cgroup that was made ahead.
func (g *groups) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.spare != nil {
		_ = g.spare.dir.Close()
		g.spare.remove()
		g.spare = nil
	}
}

// all returns the cgroups that may still be there. It may be called at any time.
func (g *groups) all() []*group {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.made)
}

// started frees what only the start needed.
func (g *group) started() {
	if g != nil {
		_ = g.dir.Close()
	}
}

// ended notes that a child has ended, whose cgroup goes soon if the child left nothing behind.
func (g *groups) ended(of *group) {
	if of != nil {
		of.ended.Store(true)
		time.AfterFunc(tidyLatest, g.tidy)
	}
}

// remove removes the cgroup and reports whether it is gone. One with processes stays:
// the kernel answers EBUSY.
func (g *group) remove() bool {
	err := unix.Rmdir(g.path)
	gone := err == nil || err == unix.ENOENT
	if gone {
		g.removed.Store(true)
	}
	return gone
}

// starved reports whether a process of the cgroup was killed for want of memory: by KillLargest, or by the kernel, which counts
// it in memory.events of cgroups(7) whichever cgroup's limit was the reason.
func (g *group) starved() bool {
	if g == nil {
		return false
	}
	if g.victims.Load() > 0 {
		return true
	}
	events, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(events)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(count) != "0"
		}
	}
	return false
}

// kill kills every process of the cgroup (cgroups(7), cgroup.kill, Linux 5.14). It
// reports false where there is no such cgroup and the caller has to find another way.
func (g *group) kill() (bool, error) {
	if g == nil {
		return false, nil
	}
	if g.removed.Load() {
		return true, nil
	}
	err := os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return g.removed.Load(), nil
	}
	return true, err
}
