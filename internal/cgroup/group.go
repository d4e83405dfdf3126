package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Group is the cgroup of one VM.
type Group struct {
	Dir string // its folder; processes are started in it by that
}

// Make makes the group, or takes the one that is there, and sets its limits. It fails with ErrOccupied when a process is in it. After
// an error there is no group that was not there before.
func (t *Tree) Make(name string, limits Limits) (Group, error) {
	g := t.Group(name)
	err := os.Mkdir(g.Dir, 0o755)
	isNew := err == nil
	switch {
	case errors.Is(err, fs.ErrExist) && g.populated():
		return Group{}, fmt.Errorf("make the cgroup %s: %w", name, ErrOccupied)
	case err != nil && !errors.Is(err, fs.ErrExist):
		return Group{}, fmt.Errorf("make the cgroup %s: %w", name, err)
	}
	if err = limits.apply(g.Dir); err == nil && t.io {
		err = limits.applyDisk(g.Dir)
	}
	if err != nil && isNew {
		err = errors.Join(err, os.Remove(g.Dir))
	}
	if err != nil {
		return Group{}, fmt.Errorf("limit the cgroup %s: %w", name, err)
	}
	return g, nil
}

// ErrOccupied is the error of Make for a group that has processes.
var ErrOccupied = errors.New("it has processes already")

// OOMKilled tells whether the kernel has killed a process of the group for going beyond the group's memory. A group that does not
// exist has killed none.
func (g Group) OOMKilled() bool { return g.number("memory.events", "oom_kill") > 0 }

// MemoryLimitMiB returns the group's limit, 0 where it has none.
func (g Group) MemoryLimitMiB() int64 {
	text, err := os.ReadFile(filepath.Join(g.Dir, "memory.max"))
	if err != nil {
		return 0
	}
	bytes, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0 // "max"
	}
	return bytes >> 20
}

// removeTick is how often Remove looks whether the processes have gone.
const removeTick = 5 * time.Millisecond

// Remove kills all that is in the group and removes it. Removing what does not exist is no error.
func (g Group) Remove(ctx context.Context) error {
	for {
		err := os.Remove(g.Dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove the cgroup: %w", err)
		}
		if err := g.kill(); err != nil {
			return fmt.Errorf("empty the cgroup %s: %w", g.Dir, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove the cgroup %s: %w", g.Dir, ctx.Err())
		case <-time.After(removeTick):
		}
	}
}

// kill kills all at once where the kernel can, since Linux 5.14, else one after the other.
func (g Group) kill() error {
	err := write(g.Dir, "cgroup.kill", "1")
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text, err := os.ReadFile(filepath.Join(g.Dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid <= 0 { // 0 is a process of another pid namespace
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

func (g Group) populated() bool { return g.number("cgroup.events", "populated") > 0 }

// number reads one line "key number" of a file, 0 where there is none.
func (g Group) number(file, key string) int64 {
	text, err := os.ReadFile(filepath.Join(g.Dir, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, key+" "); found {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
