package snapshot

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// cutDisk is a disk of which is known, at every moment, what a power cut would leave. It works on a real folder, and notes which contents of
// files and which names of folders were made to last by fsync.
type cutDisk struct {
	realDisk
	t    *testing.T
	root string

	mu    sync.Mutex
	held  []*os.File                   // every inode that was seen, so that no number comes twice
	files map[uint64]string            // what is on disk of a file
	dirs  map[uint64]map[string]uint64 // and of a folder
	cut   func(disk *cutDisk)          // called before and after every step
}

func newCutDisk(t *testing.T, root string) *cutDisk {
	d := &cutDisk{t: t, root: root, files: map[uint64]string{}, dirs: map[uint64]map[string]uint64{}, cut: func(*cutDisk) {}}
	t.Cleanup(func() {
		for _, f := range d.held {
			f.Close()
		}
	})
	return d
}

// step does one thing, and lets the power be cut before and after it.
func (d *cutDisk) step(do func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut(d)
	err := do()
	d.cut(d)
	return err
}

func (d *cutDisk) writeFile(path string, data []byte) error {
	return d.step(func() error { return d.realDisk.writeFile(path, data) })
}

func (d *cutDisk) rename(from, to string) error {
	return d.step(func() error { return d.realDisk.rename(from, to) })
}

func (d *cutDisk) exchange(a, b string) error {
	return d.step(func() error { return d.realDisk.exchange(a, b) })
}

// removeAll removes one name after the other, each a step.
func (d *cutDisk) removeAll(path string) error {
	entries, _ := os.ReadDir(path)
	for _, e := range entries {
		d.hold(filepath.Join(path, e.Name()))
		if err := d.step(func() error { return os.Remove(filepath.Join(path, e.Name())) }); err != nil {
			return err
		}
	}
	return d.step(func() error { return d.realDisk.removeAll(path) })
}

func (d *cutDisk) syncFile(path string) error {
	return d.step(func() error {
		text, err := os.ReadFile(path)
		d.files[d.hold(path)] = string(text)
		return err
	})
}

func (d *cutDisk) syncDir(path string) error {
	return d.step(func() error { d.dirs[d.hold(path)] = d.entries(path); return nil })
}

// hold returns the number of what is at path.
func (d *cutDisk) hold(path string) uint64 {
	f, err := os.Open(path)
	if err != nil {
		d.t.Fatal(err)
	}
	d.held = append(d.held, f)
	info, err := f.Stat()
	if err != nil {
		d.t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func (d *cutDisk) entries(path string) map[string]uint64 {
	list, err := os.ReadDir(path)
	if err != nil {
		d.t.Fatal(err)
	}
	names := map[string]uint64{}
	for _, e := range list {
		names[e.Name()] = d.hold(filepath.Join(path, e.Name()))
	}
	return names
}

// after are the trees that a power cut may leave now: everything was written of itself; names were, contents not; only
// what was synced is there.
func (d *cutDisk) after() []tree {
	return []tree{d.tree(false, false), d.tree(false, true), d.tree(true, true)}
}

// tree is the content of each file of a store, by name.
type tree map[string]string

// torn is in place of a content that was not synced.
const torn = "\x00\x00torn"

func (d *cutDisk) tree(syncedNames, syncedContents bool) tree {
	t := tree{}
	now := map[uint64]string{} // paths of what is there
	_ = filepath.WalkDir(d.root, func(path string, e os.DirEntry, err error) error {
		if err == nil {
			now[d.hold(path)] = path
		}
		return nil
	})
	var walk func(inode uint64, name string)
	walk = func(inode uint64, name string) {
		names, isDir := d.dirs[inode]
		if path, there := now[inode]; there && !syncedNames {
			info, err := os.Stat(path)
			if isDir = err == nil && info.IsDir(); isDir {
				names = d.entries(path)
			}
		} else if there && !isDir {
			info, err := os.Stat(path)
			isDir = err == nil && info.IsDir() // of which nothing was synced: it is empty
		}
		if isDir {
			for entry, child := range names {
				walk(child, filepath.Join(name, entry))
			}
			return
		}
		t[name] = d.content(inode, now[inode], syncedContents)
	}
	walk(d.hold(d.root), "")
	return t
}

func (d *cutDisk) content(inode uint64, path string, synced bool) string {
	if text, known := d.files[inode]; synced && known {
		return text
	} else if synced {
		return torn
	}
	text, _ := os.ReadFile(path)
	return string(text)
}

// TestPowerCutAtEveryStep cuts the power before and after every step of storing a snapshot, in the place of another and where there was none, and of
// removing one, and opens what is left.
func TestPowerCutAtEveryStep(t *testing.T) {
	for name, c := range map[string]struct {
		before  string // the snapshot in place; empty for none
		do      func(*testing.T, *Store)
		allowed []string // what may be found; the last at the end
	}{
		"first":   {"", func(t *testing.T, s *Store) { store(t, s, "new") }, []string{"", "new"}},
		"replace": {"old", func(t *testing.T, s *Store) { store(t, s, "new") }, []string{"old", "new"}},
		"sealed":  {"old", func(t *testing.T, s *Store) { storeSealed(t, s, "new") }, []string{"old", "new"}},
		"remove":  {"old", func(t *testing.T, s *Store) { must(t, s.Remove("sn")) }, []string{"old", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s, err := Open(root)
			must(t, err)
			d := newCutDisk(t, root)
			s.disk = d
			must(t, d.syncDir(root))
			if c.before != "" {
				store(t, s, c.before)
			}
			cuts := &cuts{t: t, allowed: c.allowed, known: map[string]string{}}
			d.cut = cuts.look
			c.do(t, s)
			cuts.end(d)
		})
	}
}

// cuts is what is found after each cut.
type cuts struct {
	t       *testing.T
	allowed []string
	seen    []string
	count   int
	known   map[string]string // what was found in a tree before
}

// reopen opens each tree once.
func (c *cuts) reopen(left tree) string {
	c.t.Helper()
	key := fmt.Sprint(left) // sorted by name
	found, known := c.known[key]
	if !known {
		found = reopen(c.t, left)
		c.known[key] = found
	}
	return found
}

func (c *cuts) look(d *cutDisk) {
	c.t.Helper()
	for _, left := range d.after() {
		c.count++
		found := c.reopen(left)
		if i := index(c.allowed, found); i < 0 {
			c.t.Fatalf("cut %d leaves %q, want one of %q", c.count, found, c.allowed)
		}
		c.seen = append(c.seen, found)
	}
}

// end holds that both outcomes were seen, and that what is done now lasts.
func (c *cuts) end(d *cutDisk) {
	c.t.Helper()
	last := c.allowed[len(c.allowed)-1]
	for _, left := range d.after() {
		if found := c.reopen(left); found != last {
			c.t.Errorf("a cut after the end leaves %q, want %q", found, last)
		}
	}
	for _, want := range c.allowed {
		if index(c.seen, want) < 0 {
			c.t.Errorf("in %d cuts, %q was never found", c.count, want)
		}
	}
	c.t.Logf("%d cuts", c.count)
}

func index(list []string, s string) int {
	for i, one := range list {
		if one == s {
			return i
		}
	}
	return -1
}

// reopen writes a tree to a new folder and returns what a store finds there: the content of the one snapshot's files, if they
// agree with each other, or nothing.
func reopen(t *testing.T, left tree) string {
	t.Helper()
	root, err := os.MkdirTemp(t.TempDir(), "cut")
	must(t, err)
	for name, text := range left {
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	s, err := Open(root)
	must(t, err)
	list, err := s.List()
	must(t, err)
	if len(list) == 0 {
		entries, err := os.ReadDir(root)
		must(t, err)
		if len(entries) > 0 {
			t.Fatalf("%s is left over", entries[0])
		}
		return ""
	}
	must(t, list[0].Err)
	if _, err := list[0].Snapshot.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	return contentOf(t, list[0].Snapshot)
}

// contentOf is the one word that store gave all files.
func contentOf(t *testing.T, s Snapshot) string {
	t.Helper()
	words := map[string]bool{}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(s.Dir, name))
		must(t, err)
		word, _, _ := strings.Cut(string(text), " ")
		words[word] = true
	}
	words[s.Envd] = true
	if len(words) > 1 {
		t.Fatalf("it is a mixture of %v", words)
	}
	for word := range maps.Keys(words) {
		return word
	}
	return ""
}
