// Package objecttest holds implementations of object.Store to their contract.
package objecttest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
)

// Run tests an empty store.
func Run(t *testing.T, s object.Store) {
	t.Run("objects", func(t *testing.T) { objects(t, s) })
	t.Run("listing", func(t *testing.T) { listing(t, s) })
	t.Run("keys", func(t *testing.T) { keys(t, s) })
	t.Run("replaced whole", func(t *testing.T) { replaced(t, s) })
	t.Run("ended", func(t *testing.T) { ended(t, s) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, what string, err error, code models.Code) {
	t.Helper()
	if err == nil || models.CodeOf(err) != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

// objects are what was put last, until they are deleted.
func objects(t *testing.T, s object.Store) {
	ctx := t.Context()
	for _, data := range [][]byte{nil, []byte("first"), bytes.Repeat([]byte{7}, 600<<10), []byte("last")} {
		before := time.Now().Add(-2 * time.Second)
		must(t, s.Put(ctx, "a/b/object", data))
		got, err := s.Get(ctx, "a/b/object", 1<<20)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(data))
		}
		info, err := s.Stat(ctx, "a/b/object")
		if err != nil || info.Key != "a/b/object" || info.Size != int64(len(data)) || info.Modified.Before(before) {
			t.Errorf("stat: %+v %v", info, err)
		}
	}
	_, err := s.Get(ctx, "a/b/object", 3)
	wantCode(t, "a limit of 3", err, models.Precondition)
	must(t, s.Delete(ctx, "a/b/object"))
	must(t, s.Delete(ctx, "a/b/object"))
	_, err = s.Get(ctx, "a/b/object", 9)
	wantCode(t, "get what was deleted", err, models.NotFound)
	for _, key := range []string{"a/b/object", "a/b", "never/there"} {
		_, err = s.Stat(ctx, key)
		wantCode(t, "stat "+key, err, models.NotFound)
	}
}

// listing is by prefix, in order, of as many as there are.
func listing(t *testing.T, s object.Store) {
	ctx := t.Context()
	want := make([]string, 0, 32)
	for i := range 30 {
		want = append(want, fmt.Sprintf("list/x%02d/o", i))
	}
	want = append(want, "list/y", "lisu")
	for _, key := range want {
		must(t, s.Put(ctx, key, []byte(key)))
	}
	for prefix, expect := range map[string][]string{"list/": want[:31], "list/x": want[:30], "list/x07/": want[7:8], "lis": want, "none/": nil} {
		var got []string
		for info, err := range s.List(ctx, prefix) {
			must(t, err)
			if info.Size != int64(len(info.Key)) || info.Modified.IsZero() {
				t.Errorf("listed as %+v", info)
			}
			got = append(got, info.Key)
		}
		if !slices.Equal(got, expect) {
			t.Errorf("%q lists %v, want %v", prefix, got, expect)
		}
	}
	for _, err := range s.List(ctx, "list/") { // one that is broken off
		if err != nil {
			t.Error(err)
		}
		break
	}
}

func keys(t *testing.T, s object.Store) {
	ctx := t.Context()
	for _, key := range []string{"", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "A", "a b", "a\x00", strings.Repeat("x", 513)} {
		_, getErr := s.Get(ctx, key, 9)
		_, statErr := s.Stat(ctx, key)
		for _, err := range []error{s.Put(ctx, key, nil), getErr, statErr, s.Delete(ctx, key)} {
			wantCode(t, fmt.Sprintf("key %q", key), err, models.Invalid)
		}
	}
}

// replaced: who reads while others write finds one whole content.
func replaced(t *testing.T, s object.Store) {
	ctx := t.Context()
	must(t, s.Put(ctx, "whole", bytes.Repeat([]byte{0}, 100<<10)))
	var all sync.WaitGroup
	for n := byte(1); n < 4; n++ {
		all.Go(func() {
			for range 5 {
				if err := s.Put(ctx, "whole", bytes.Repeat([]byte{n}, 100<<10+int(n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		got, err := s.Get(ctx, "whole", 1<<20)
		must(t, err)
		if n := got[0]; len(got) != 100<<10+int(n) || bytes.Count(got, []byte{n}) != len(got) {
			t.Errorf("%d bytes that begin with %d", len(got), n)
		}
	}
	all.Wait()
}

// ended: a ctx that is over has no effect.
func ended(t *testing.T, s object.Store) {
	must(t, s.Put(t.Context(), "ended", nil))
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ctx := range []context.Context{late, cancelled} {
		if s.Delete(ctx, "ended") == nil || s.Put(ctx, "ended", []byte("x")) == nil {
			t.Error("it goes on")
		}
		for _, err := range s.List(ctx, "ended") {
			if err == nil {
				t.Error("it lists")
			}
		}
	}
	if info, err := s.Stat(t.Context(), "ended"); err != nil || info.Size != 0 {
		t.Errorf("afterwards: %+v %v", info, err)
	}
}
