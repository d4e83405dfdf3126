package pressure

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestShort: waiting for memory is a reason to kill only where next to none is to be had.
func TestShort(t *testing.T) {
	for _, c := range []struct {
		name                         string
		max                          string
		current, cache, slab, shared int
		want                         bool
	}{
		{"no limit", "max", 500, 0, 0, 0, false},
		{"all is the programs' own", "100", 99, 1, 0, 0, true},
		{"what is left of the cache is read over and over", "100", 100, 8, 0, 0, true},
		{"half is cache", "100", 100, 50, 0, 0, false},
		{"the cache is memory that programs share", "100", 100, 50, 0, 50, true},
		{"somebody has just been killed", "100", 5, 2, 0, 0, false},
		{"names and inodes can be given up as well", "100", 100, 1, 20, 0, false},
		{"a large guest with little cache", "8000", 8000, 100, 0, 0, false},
		{"a large guest with next to none", "8000", 8000, 50, 0, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &Watcher{group: t.TempDir()}
			number := func(mib int) string { return strconv.Itoa(mib << 20) }
			limit := c.max
			if n, err := strconv.Atoi(limit); err == nil {
				limit = number(n)
			}
			for name, text := range map[string]string{
				"memory.max": limit, "memory.current": number(c.current),
				"memory.stat": "anon 1\nfile " + number(c.cache) + "\nshmem " + number(c.shared) + "\nslab_reclaimable " + number(c.slab) + "\n",
			} {
				if err := os.WriteFile(filepath.Join(w.group, name), []byte(text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := w.short(); got != c.want || err != nil {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}
