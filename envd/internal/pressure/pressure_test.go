package pressure

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestThrashing: waiting for memory is a reason to kill only where next to none is to be had and the same is read over and over.
func TestThrashing(t *testing.T) {
	for _, c := range []struct {
		name                                string
		max                                 string
		current, cache, slab, shared, again int // MiB
		want                                bool
	}{
		{"no limit", "max", 500, 0, 0, 0, 50, false},
		{"all is the programs' own", "100", 100, 0, 0, 0, 1, true},
		{"what is left of the cache is read over and over", "100", 100, 8, 0, 0, 2, true},
		{"what is left of the cache is read once", "100", 100, 8, 0, 0, 1, false},
		{"half is cache", "100", 100, 50, 0, 0, 50, false},
		{"the cache is memory that programs share", "100", 100, 50, 0, 50, 1, true},
		{"somebody has just been killed", "100", 5, 2, 0, 0, 50, false},
		{"names and inodes can be given up as well", "100", 100, 1, 20, 0, 50, false},
		{"a large guest with little cache", "8000", 8000, 100, 0, 0, 100, false},
		{"a large guest with next to none", "8000", 8000, 50, 0, 0, 50, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &Watcher{group: t.TempDir()}
			limit := c.max
			if n, err := strconv.Atoi(limit); err == nil {
				limit = strconv.Itoa(n << 20)
			}
			stat := func(again int) string {
				return fmt.Sprintf("anon 1\nfile %d\nshmem %d\nslab_reclaimable %d\nworkingset_refault_file %d\n",
					c.cache<<20, c.shared<<20, c.slab<<20, again<<20/os.Getpagesize())
			}
			var seen []memory
			for _, again := range []int{100, 100 + c.again} {
				for name, text := range map[string]string{"memory.max": limit, "memory.current": strconv.Itoa(c.current << 20), "memory.stat": stat(again)} {
					if err := os.WriteFile(filepath.Join(w.group, name), []byte(text+"\n"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				m, err := w.look()
				if err != nil {
					t.Fatal(err)
				}
				seen = append(seen, m)
			}
			if got := seen[1].thrashes(seen[0]); got != c.want {
				t.Errorf("%v: %+v", got, seen)
			}
		})
	}
}
