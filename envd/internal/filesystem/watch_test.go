package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const patience = time.Minute

// quiet is how long no event must come before there is taken to be none. Events are in the kernel's
// queue before what causes them returns, so nothing is waited for.
const quiet = 50 * time.Millisecond

func (f *fixture) watch(path string, opts WatchOptions) *Watch {
	f.Helper()
	w, err := f.Watch(f.at(path), opts)
	f.must(err)
	f.Cleanup(func() { _ = w.Close() })
	return w
}

var letters = map[EventType]string{Created: "+", Written: "w", Removed: "-", Renamed: ">", ModeChanged: "m"}

// events returns what has happened so far, as a letter and the name.
func (f *fixture) events(w *Watch) []string {
	f.Helper()
	var got []string
	for {
		event, err := w.Next(f.Context(), quiet)
		if errors.Is(err, ErrQuiet) {
			return got
		}
		f.must(err)
		got = append(got, letters[event.Type]+event.Name)
	}
}

func (f *fixture) saw(w *Watch, want ...string) {
	f.Helper()
	if diff := cmp.Diff(want, f.events(w)); diff != "" {
		f.Error(diff)
	}
}

func TestWatch(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir/below")
	w := f.watch("dir", WatchOptions{})
	f.saw(w)
	f.writeFile("dir/file", "x")
	f.saw(w, "+file", "wfile")
	f.must(os.Chmod(f.at("dir/file"), 0o600))
	f.must(os.Rename(f.at("dir/file"), f.at("dir/name")))
	f.must(os.Rename(f.at("dir/name"), f.at("outside")))
	f.must(os.Rename(f.at("outside"), f.at("dir/back")))
	f.must(os.Remove(f.at("dir/back")))
	f.saw(w, "mfile", ">file", "+name", ">name", "+back", "-back")
	f.writeFile("dir/below/unseen", "")
	f.mkdir("dir/made")
	f.writeFile("dir/made/unseen", "")
	f.saw(w, "+made")
	f.must(os.RemoveAll(f.at("dir")))
	if got := f.events(w); got[len(got)-1] != "-." {
		t.Errorf("the last event is %v", got)
	}
	f.saw(w)
}

func TestWatchRecursively(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir/a/b")
	f.mkdir("outside/x/y")
	f.writeFile("outside/x/file", "moved, not written")
	f.link("../outside", "dir/link")
	w := f.watch("dir", WatchOptions{Recursive: true})
	f.writeFile("dir/a/b/file", "")
	f.writeFile("outside/unseen", "")
	f.saw(w, "+a/b/file")
	f.must(os.Chmod(f.at("dir/a/b"), 0o700))
	f.saw(w, "ma/b")
	f.must(os.Rename(f.at("outside/x"), f.at("dir/moved")))
	got := f.events(w)
	if diff := cmp.Diff(map[string]bool{"+moved": true, "+moved/y": true, "+moved/file": true}, set(got)); diff != "" || got[0] != "+moved" {
		t.Errorf("%v: %s", got, diff)
	}
	f.writeFile("dir/moved/y/file", "x")
	f.saw(w, "+moved/y/file", "wmoved/y/file")
	f.must(os.Rename(f.at("dir/moved"), f.at("dir/a/again")))
	f.events(w)
	f.writeFile("dir/a/again/y/file", "")
	f.saw(w, "wa/again/y/file")
	f.must(os.Rename(f.at("dir/a/again"), f.at("outside/x")))
	f.saw(w, ">a/again")
	f.writeFile("outside/x/y/unseen", "")
	f.saw(w)
	f.must(os.RemoveAll(f.at("dir/a")))
	f.saw(w, "-a/b/file", "-a/b", "-a")
	f.mkdir("dir/a")
	f.writeFile("dir/a/new", "")
	f.saw(w, "+a", "+a/new")
	if len(w.tree.byWD) != 2 || len(w.tree.byName) != 2 {
		t.Errorf("%v and %v are watched", w.tree.byWD, w.tree.byName)
	}
}

func set(list []string) map[string]bool {
	s := map[string]bool{}
	for _, element := range list {
		s[element] = true
	}
	return s
}

// What is made in a new directory before it is watched is reported, once.
func TestNewDirectoriesWithContent(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir")
	w := f.watch("dir", WatchOptions{Recursive: true})
	const count = 200
	done := make(chan error, 1)
	go func() {
		for i := range count {
			dir := f.at(fmt.Sprintf("dir/%d/x/y", i))
			err := os.MkdirAll(dir, 0o755)
			if err == nil {
				err = os.WriteFile(dir+"/file", []byte("x"), 0o644)
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	seen, written := map[string]int{}, map[string]bool{}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(seen) < 4*count || len(written) < count {
		event, err := w.Next(ctx, patience)
		f.must(err)
		if event.Type == Created {
			seen[event.Name]++
		} else {
			written[event.Name] = true
		}
	}
	f.must(<-done)
	for _, more := range f.events(w) {
		if !strings.HasPrefix(more, "w") {
			t.Errorf("%s came too", more)
		}
	}
	for name, n := range seen {
		if n != 1 {
			t.Errorf("%s was reported %d times", name, n)
		}
	}
}

// A file that appears complete is reported as one that was written, and its temporary name never.
func TestWatchUploads(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir")
	w := f.watch("dir", WatchOptions{})
	f.writeFile("dir/"+TemporaryNew+"1", "x")
	f.saw(w)
	f.must(os.Rename(f.at("dir/"+TemporaryNew+"1"), f.at("dir/file")))
	f.saw(w, "+file", "wfile")
	f.writeFile("dir/"+TemporaryReplacement+"2", "x")
	f.must(os.Rename(f.at("dir/"+TemporaryReplacement+"2"), f.at("dir/file")))
	f.saw(w, "wfile")
	f.writeFile("dir/"+TemporaryNew+"3", "x")
	f.must(os.Remove(f.at("dir/" + TemporaryNew + "3")))
	f.saw(w)
	for i := range maxMoves + 10 { // out of sight
		f.writeFile("dir/"+TemporaryNew, "x")
		f.must(os.Rename(f.at("dir/"+TemporaryNew), f.at(fmt.Sprint("away", i))))
	}
	f.saw(w)
	if len(w.tree.moves) > maxMoves {
		t.Errorf("%d moves are remembered", len(w.tree.moves))
	}
}

func TestWatchEntries(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir")
	w := f.watch("dir", WatchOptions{IncludeEntry: true})
	f.writeFile("dir/file", "")
	event, err := w.Next(t.Context(), patience)
	if err != nil || event.Entry == nil || event.Entry.Path != f.at("dir/file") || event.Entry.Type != File {
		t.Errorf("%+v, %v", event, err)
	}
	f.must(os.Remove(f.at("dir/file")))
	f.mkdir("dir/file")
	if event, err = w.Next(t.Context(), patience); err != nil || event.Type != Removed || event.Entry != nil {
		t.Errorf("%+v, %v", event, err)
	}
}

func TestWatchErrors(t *testing.T) {
	f := newFixture(t)
	f.writeFile("file", "")
	_, err := f.Watch(f.at("file"), WatchOptions{})
	f.fails(err, Invalid, "path "+f.at("file")+" not a directory")
	_, err = f.Watch(f.at("missing"), WatchOptions{})
	f.fails(err, NotFound, "path "+f.at("missing")+" not found")
	f.mkdir("dir")
	w := f.watch("dir", WatchOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(quiet, cancel)
	if _, err := w.Next(ctx, patience); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	time.AfterFunc(quiet, func() { _ = w.Close() })
	_, err = w.Next(t.Context(), patience)
	f.fails(err, Precondition, "closed")
}

// That events were lost is said, and after what was not lost.
func TestWatchOverflow(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir")
	w := f.watch("dir", WatchOptions{})
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	f.must(err)
	limit := 0
	if _, err := fmt.Sscan(string(text), &limit); err != nil || limit > 100_000 {
		t.Skipf("the kernel keeps %d events: %v", limit, err)
	}
	f.writeFile("dir/a", "")
	f.writeFile("dir/b", "")
	for i := range limit {
		f.must(os.Chmod(f.at([]string{"dir/a", "dir/b"}[i%2]), 0o600))
	}
	count := 0
	for err = nil; err == nil; count++ {
		_, err = w.Next(t.Context(), patience)
	}
	if count < limit {
		t.Errorf("%d events", count)
	}
	f.fails(err, Exhausted, "events were lost")
}

func (f *fixture) poll(id string) []string {
	f.Helper()
	events, err := f.WatcherEvents(id)
	f.must(err)
	var got []string
	for _, e := range events {
		got = append(got, letters[e.Type]+e.Name)
	}
	return got
}

func (f *fixture) eventually(check func() bool) {
	f.Helper()
	for deadline := time.Now().Add(patience); !check(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.Fatal("it did not happen")
		}
	}
}

func TestWatcher(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir")
	id, err := f.CreateWatcher(f.at("dir"), WatchOptions{Recursive: true})
	f.must(err)
	f.mkdir("dir/a")
	f.writeFile("dir/a/file", "")
	var got []string
	f.eventually(func() bool {
		got = append(got, f.poll(id)...)
		return len(got) >= 2
	})
	if diff := cmp.Diff([]string{"+a", "+a/file"}, got); diff != "" {
		t.Error(diff)
	}
	f.must(f.RemoveWatcher(id))
	_, err = f.WatcherEvents(id)
	f.fails(err, NotFound, "watcher with id "+id+" not found")
	f.fails(f.RemoveWatcher(id), NotFound, "not found")
	_, err = f.CreateWatcher(f.at("missing"), WatchOptions{})
	f.fails(err, NotFound, "not found")
}

// Events that nobody asks for are bounded, and it is said that some were lost.
func TestWatcherOverflow(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir")
	id, err := f.CreateWatcher(f.at("dir"), WatchOptions{})
	f.must(err)
	w, err := f.watchers.find(id)
	f.must(err)
	name := strings.Repeat("n", 200)
	for i := 0; ; i++ {
		f.writeFile(fmt.Sprintf("dir/%s%d", name, i%1000), "x")
		select {
		case <-w.done:
		default:
			if i < 100*maxQueued {
				continue
			}
			t.Fatal("it goes on for ever")
		}
		break
	}
	if n := len(f.poll(id)); n == 0 || n > maxQueued {
		t.Errorf("%d events", n)
	}
	_, err = f.WatcherEvents(id)
	f.fails(err, Exhausted, "events were lost")
	f.must(f.RemoveWatcher(id))
}

func TestTooManyWatchers(t *testing.T) {
	f := newFixture(t)
	f.mkdir("dir")
	ids := make([]string, maxWatchers)
	for i := range ids {
		var err error
		ids[i], err = f.CreateWatcher(f.at("dir"), WatchOptions{})
		f.must(err)
	}
	_, err := f.CreateWatcher(f.at("dir"), WatchOptions{})
	f.fails(err, Exhausted, "more than 64 watchers")
	forgotten, err := f.watchers.find(ids[7])
	f.must(err)
	forgotten.mu.Lock()
	forgotten.asked = time.Now().Add(-time.Hour)
	forgotten.mu.Unlock()
	_, err = f.CreateWatcher(f.at("dir"), WatchOptions{})
	f.must(err)
	_, err = f.WatcherEvents(ids[7])
	f.fails(err, NotFound, ids[7])
	f.Close()
	_, err = f.CreateWatcher(f.at("dir"), WatchOptions{})
	f.fails(err, Precondition, "shutting down")
}
