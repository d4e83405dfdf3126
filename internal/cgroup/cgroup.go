// Package cgroup limits what the processes of a VM may take of their host, through cgroup v2
// (Documentation/admin-guide/cgroup-v2.rst of Linux).
//
// A Tree is a folder of the hierarchy below which each VM has a Group of its own. What is in a group lives on when this program ends,
// and is found again by its name. Groups lie two levels below the root, in wrenn.slice/sandboxes, of which systemd
// knows the first at most: it can switch no controller off that is in use further down, and the end of the agent's own unit ends
// no VM.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrUnavailable is the error of Open where this host cannot limit anything. What it is wrapped with says why.
var ErrUnavailable = errors.New("no limits can be set through cgroup v2")

// needed are the controllers without which there is no Tree. io is used where it is there.
var needed = []string{"cpu", "memory", "pids"}

// Tree is the folder that holds the groups.
type Tree struct {
	dir string
	io  bool // the controller io is there
}

// Open finds the hierarchy that is mounted on this machine, makes the folder parent of it, a relative path, and
// switches on the controllers down to there.
func Open(parent string) (*Tree, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroup v2: %w", err)
	}
	root := findMount(string(mounts))
	if root == "" {
		return nil, fmt.Errorf("%w: it is not mounted on this host", ErrUnavailable)
	}
	return OpenAt(root, parent)
}

// findMount returns where cgroup v2 is mounted, according to a text like /proc/self/mountinfo; proc_pid_mountinfo(5).
func findMount(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		mount, filesystem, found := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if found && strings.HasPrefix(filesystem, "cgroup2 ") && len(fields) > 4 {
			return fields[4]
		}
	}
	return ""
}

// OpenAt is Open for the hierarchy that is mounted on root.
func OpenAt(root, parent string) (*Tree, error) {
	if !filepath.IsLocal(parent) {
		return nil, fmt.Errorf("%q is no path below the root of the cgroups", parent)
	}
	available, err := controllers(root)
	if err != nil {
		return nil, err
	}
	for _, name := range needed {
		if !slices.Contains(available, name) {
			return nil, fmt.Errorf("%w: %s has no controller %s, which cgroup v1 may hold", ErrUnavailable, root, name)
		}
	}
	t := &Tree{dir: filepath.Join(root, parent), io: slices.Contains(available, "io")}
	if err := t.enable(root, parent); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return t, nil
}

func controllers(dir string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("read the controllers of %s: %w", dir, err)
	}
	return strings.Fields(string(text)), nil
}

// enable makes the folders of parent and switches the controllers on for what lies in each. A controller is switched on
// by itself, as one that fails would take the others with it.
func (t *Tree) enable(root, parent string) error {
	names := slices.Clone(needed)
	if t.io {
		names = append(names, "io")
	}
	dir := root
	for _, part := range append([]string{""}, strings.Split(filepath.Clean(parent), "/")...) {
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the cgroup %s: %w", dir, err)
		}
		for _, name := range names {
			if err := write(dir, "cgroup.subtree_control", "+"+name); err != nil {
				return fmt.Errorf("switch %s on: %w", name, err)
			}
		}
	}
	return nil
}

// Dir is the folder that holds the groups.
func (t *Tree) Dir() string { return t.dir }

// IO tells whether what a group reads and writes can be limited.
func (t *Tree) IO() bool { return t.io }

// Group returns the group of this name, which need not exist.
func (t *Tree) Group(name string) Group { return Group{filepath.Join(t.dir, name)} }

// Names lists the groups that exist.
func (t *Tree) Names() ([]string, error) {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
