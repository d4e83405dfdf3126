package diskcache_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/object/diskcache"
)

func open(t *testing.T, dir string, limit int64) *diskcache.Cache {
	t.Helper()
	c, err := diskcache.Open(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// reader gets objects of ten bytes and counts what was fetched.
type reader struct {
	t       *testing.T
	fetches atomic.Int32
}

func (r *reader) get(c *diskcache.Cache, name string) {
	r.t.Helper()
	got, err := c.Get(r.t.Context(), name, func(context.Context) ([]byte, error) {
		r.fetches.Add(1)
		return []byte(fmt.Sprintf("%-10s", name)), nil
	})
	if err != nil || string(got) != fmt.Sprintf("%-10s", name) {
		r.t.Errorf("%s: %q %v", name, got, err)
	}
}

func size(t *testing.T, dir string) (total int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

// What was used last stays, within the limit, also for the next process.
func TestLimit(t *testing.T) {
	dir := t.TempDir()
	c, r := open(t, dir, 35), &reader{t: t}
	for _, name := range []string{"a", "b", "c", "a", "d", "a", "c"} { // d drives out b
		r.get(c, name)
	}
	if r.fetches.Load() != 4 || size(t, dir) != 30 {
		t.Errorf("%d fetches, %d bytes", r.fetches.Load(), size(t, dir))
	}
	for i, name := range []string{"d", "c", "a"} { // of an order that the clock of the file system tells
		at := time.Now().Add(time.Duration(i-10) * time.Minute)
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	c = open(t, dir, 25)
	r.get(c, "a")
	r.get(c, "c")
	if r.fetches.Load() != 4 || size(t, dir) != 20 {
		t.Errorf("reopened: %d fetches, %d bytes", r.fetches.Load(), size(t, dir))
	}
	_, err := c.Get(t.Context(), "large", func(context.Context) ([]byte, error) { return make([]byte, 26), nil })
	if err != nil || size(t, dir) != 20 {
		t.Errorf("larger than the cache: %v, %d bytes", err, size(t, dir))
	}
}

// Many readers cause one fetch; the one that began it may go.
func TestOneFetch(t *testing.T) {
	c := open(t, t.TempDir(), 1000)
	begun, goOn := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		_, err := c.Get(ctx, "x", func(ctx context.Context) ([]byte, error) {
			close(begun)
			<-goOn
			return []byte(fmt.Sprintf("%-10s", "x")), ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the first: %v", err)
		}
	})
	<-begun
	r := &reader{t: t}
	for range 20 {
		all.Go(func() { r.get(c, "x") })
	}
	cancel()
	close(goOn)
	all.Wait()
	if r.fetches.Load() != 0 {
		t.Errorf("%d more fetches", r.fetches.Load())
	}
}

// A fetch that fails leaves nothing, and neither does a process that was killed in the middle of one.
func TestFailures(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".x.1.wrenn-tmp"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, r := open(t, dir, 1000), &reader{t: t}
	failed := errors.New("failed")
	if _, err := c.Get(t.Context(), "x", func(context.Context) ([]byte, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if n := size(t, dir); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
	r.get(c, "x")
	if err := os.Remove(filepath.Join(dir, "x")); err != nil { // under its hands
		t.Fatal(err)
	}
	r.get(c, "x")
	if err := c.Drop("x"); err != nil {
		t.Fatal(err)
	}
	r.get(c, "x")
	if r.fetches.Load() != 3 {
		t.Errorf("%d fetches", r.fetches.Load())
	}
}

// What another process keeps is read; nothing is added to it or taken away.
func TestBorrow(t *testing.T) {
	dir := t.TempDir()
	owner, r := open(t, dir, 100), &reader{t: t}
	r.get(owner, "a")
	borrowed := diskcache.Borrow(dir)
	r.get(borrowed, "a")
	r.get(borrowed, "b")
	r.get(borrowed, "b")
	if err := borrowed.Drop("a"); err != nil {
		t.Error(err)
	}
	if r.fetches.Load() != 3 || size(t, dir) != 10 {
		t.Errorf("%d fetches, %d bytes", r.fetches.Load(), size(t, dir))
	}
}
