// Package diskcache keeps objects that never change in a folder of bounded size.
//
// What was used last stays longest. Many readers that want the same object at the same time cause one fetch. Files appear by rename and are
// not synced: after a power cut one may be torn, so a reader checks what it gets and drops what is wrong.
package diskcache

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
)

// fetchTime bounds one fetch, which outlives the caller that began it: others may wait for it.
const fetchTime = 2 * time.Minute

// Cache is a folder of objects, each under a name that is good for a file. One process at a time has it open; others may Borrow what is in it.
type Cache struct {
	dir      string
	limit    int64
	borrowed bool // another process's
	fetches  singleflight.Group

	mu    sync.Mutex // guards all of the following
	order *list.List // of entry, used last first
	at    map[string]*list.Element
	size  int64
}

type entry struct {
	name string
	size int64
}

// Open makes dir where it is missing, takes over what an earlier process kept there, and removes what is more than limit bytes.
func Open(dir string, limit int64) (*Cache, error) {
	if err := errors.Join(os.MkdirAll(dir, 0o700), durable.Sweep(dir)); err != nil {
		return nil, fmt.Errorf("open the cache: %w", err)
	}
	c := &Cache{dir: dir, limit: limit, order: list.New(), at: map[string]*list.Element{}}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("open the cache: %w", err)
	}
	return c, nil
}

// Borrow returns a cache of what another process keeps in dir: it is read, and nothing is kept.
func Borrow(dir string) *Cache { return &Cache{dir: dir, borrowed: true} }

func (c *Cache) load() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var found []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		found = append(found, info)
	}
	slices.SortFunc(found, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range found {
		if err := c.add(entry{info.Name(), info.Size()}); err != nil {
			return err
		}
	}
	return nil
}

// Get returns an object from the folder, or has it fetched and keeps it. The caller must not write to what it gets: others get the same.
// That the object could not be kept is no error.
func (c *Cache) Get(ctx context.Context, name string, fetch func(context.Context) ([]byte, error)) ([]byte, error) {
	if data, ok := c.read(name); ok {
		return data, nil
	}
	result := c.fetches.DoChan(name, func() (any, error) {
		if data, ok := c.read(name); ok { // another fetch ended just now
			return data, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
		defer cancel()
		data, err := fetch(ctx)
		if err == nil {
			_ = c.keep(name, data) // a full disk makes it slower, no more
		}
		return data, err
	})
	select {
	case r := <-result:
		data, _ := r.Val.([]byte)
		return data, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Drop removes an object that turned out to be wrong. A borrowed one is left to its owner.
func (c *Cache) Drop(name string) error {
	if c.borrowed {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drop(name)
}

func (c *Cache) read(name string) ([]byte, bool) {
	if c.borrowed {
		data, err := os.ReadFile(c.path(name))
		return data, err == nil
	}
	c.mu.Lock()
	e, ok := c.at[name]
	if ok {
		c.order.MoveToFront(e)
	}
	c.mu.Unlock()
	if !ok {
		return nil, false
	}
	data, err := os.ReadFile(c.path(name))
	if err != nil { // thrown out just now, or the disk fails: it is fetched
		return nil, false
	}
	now := time.Now()
	_ = os.Chtimes(c.path(name), now, now) // the order of use, for the next process
	return data, true
}

func (c *Cache) keep(name string, data []byte) error {
	if c.borrowed || int64(len(data)) > c.limit {
		return nil
	}
	temp, err := os.CreateTemp(c.dir, durable.Pattern(name))
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	if err := errors.Join(err, temp.Close()); err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := os.Rename(temp.Name(), c.path(name)); err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return c.add(entry{name, int64(len(data))})
}

// add notes a file that is there as the one used last, and removes what is too much. The caller holds the lock, or is alone.
func (c *Cache) add(e entry) error {
	if old, ok := c.at[e.name]; ok {
		c.forget(old)
	}
	c.at[e.name] = c.order.PushFront(e)
	c.size += e.size
	for c.size > c.limit {
		if err := c.drop(c.order.Back().Value.(entry).name); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cache) drop(name string) error {
	if e, ok := c.at[name]; ok {
		c.forget(e)
	}
	if err := os.Remove(c.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (c *Cache) forget(e *list.Element) {
	known := c.order.Remove(e).(entry)
	delete(c.at, known.name)
	c.size -= known.size
}

func (c *Cache) path(name string) string { return filepath.Join(c.dir, name) }
