package filesystem

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// EventType is what happened, in the protocol's numbers.
type EventType uint8

// The types of events. Renamed is a name that has gone; one that has come is Created.
const (
	Created EventType = iota + 1
	Written
	Removed
	Renamed
	ModeChanged
)

// Event is something that happened in a watched directory.
type Event struct {
	Name  string // relative to the watched directory, which itself is "."
	Type  EventType
	Entry *Entry // nil unless asked for, and when nothing has the name any more
}

// WatchOptions say what to watch.
type WatchOptions struct {
	Recursive          bool
	IncludeEntry       bool
	AllowNetworkMounts bool
}

// maxPending is how many events may be found at once in directories that appear with content.
const maxPending = 50_000

// bufferSize is how much of the kernel's queue is read at a time.
const bufferSize = 16 << 10

// ErrQuiet is returned by Watch.Next when nothing happens.
var ErrQuiet = errors.New("nothing happened")

// Watch is a watched directory. Events wait in the kernel's queue, which is bounded, until Next asks for
// them; that they were too many ends the watch with an error, so no event is lost without a word.
// It must be closed. Except for Close, its methods must not be called at the same time.
type Watch struct {
	service *Service
	opts    WatchOptions
	file    *os.File
	conn    syscall.RawConn
	tree    tree
	buf     []byte
	pending []Event
	failed  error
}

// Watch begins to watch the directory at path. Everything that happens from now on is reported. The error
// is an *Error.
func (s *Service) Watch(path string, opts WatchOptions) (*Watch, error) {
	if err := checkWatchable(path, opts); err != nil {
		return nil, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, kernelError("error creating watcher", err)
	}
	w := &Watch{service: s, opts: opts, file: os.NewFile(uintptr(fd), "inotify"), buf: make([]byte, bufferSize)}
	w.tree = newTree(fd, path)
	if w.conn, err = w.file.SyscallConn(); err == nil {
		err = w.begin()
	}
	if err != nil {
		_ = w.Close()
		return nil, watchError(path, err)
	}
	return w, nil
}

// begin watches what is there.
func (w *Watch) begin() error {
	if err := w.tree.add("."); err != nil {
		return err
	}
	if !w.opts.Recursive {
		return nil
	}
	return w.tree.scan(".", func(string, fs.DirEntry) error { return nil })
}

func checkWatchable(path string, opts WatchOptions) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errorf(NotFound, "path %s not found", path)
	case err != nil:
		return kernelError("error statting path "+path, err)
	case !info.IsDir():
		return errorf(Invalid, "path %s not a directory", path)
	}
	remote, err := onNetwork(path)
	switch {
	case err != nil:
		return kernelError("error checking mount status of "+path, err)
	case remote && !opts.AllowNetworkMounts:
		return errorf(Invalid, "cannot watch path on network filesystem: %s", path)
	}
	return nil
}

func watchError(path string, err error) error {
	var coded *Error
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.Is(err, syscall.ENOSPC): // fs.inotify.max_user_watches
		return errorf(Exhausted, "the kernel watches no more directories")
	}
	return kernelError("error adding path "+path+" to watcher", err)
}

// Close ends the watch, and a Next that waits.
func (w *Watch) Close() error { return w.file.Close() }

// Next returns the next event, ErrQuiet when there is none for that long, the context's
// error, or the *Error that ended the watch.
func (w *Watch) Next(ctx context.Context, patience time.Duration) (Event, error) {
	_ = w.file.SetReadDeadline(time.Now().Add(patience)) // a closed file says so when it is read
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if len(w.pending) > 0 {
			event := w.pending[0]
			w.pending = w.pending[1:]
			return w.describe(event), nil
		}
		if err := ctx.Err(); err != nil {
			return Event{}, err
		}
		if w.failed != nil {
			return Event{}, w.failed
		}
		if err := w.read(); err != nil && ctx.Err() == nil {
			return Event{}, err
		}
	}
}

// describe adds the entry. What is gone has none: what has its name by now may be something else.
func (w *Watch) describe(event Event) Event {
	if !w.opts.IncludeEntry || event.Type == Removed || event.Type == Renamed {
		return event
	}
	event.Entry, _ = w.service.Stat(filepath.Join(w.tree.root, event.Name)) // nil when it is gone again
	return event
}

// read waits for the kernel and turns what it says into pending events.
func (w *Watch) read() error {
	var n int
	var err error
	waitErr := w.conn.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), w.buf)
		if errors.Is(err, unix.EAGAIN) {
			w.tree.settle()
			return false
		}
		return true
	})
	switch {
	case errors.Is(waitErr, os.ErrDeadlineExceeded):
		return ErrQuiet
	case waitErr != nil:
		return errorf(Precondition, "the watcher was closed")
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return kernelError("watcher error", err)
	}
	w.pending = w.pending[:0]
	w.failed = w.tree.decode(w.buf[:n], w.handle)
	return nil
}

// handle turns one event of the kernel into those of the protocol.
func (w *Watch) handle(e notice) error {
	switch {
	case e.mask&unix.IN_Q_OVERFLOW != 0:
		return errorf(Exhausted, "events were lost: there were more than the kernel keeps until they are read")
	case e.mask&unix.IN_IGNORED != 0:
		w.tree.forget(e.wd)
		return nil
	case e.name == "" && e.dir != ".":
		return nil // a directory's own events are reported by the one that it is in
	case isTemporary(e.name):
		w.tree.temporary(e)
		return nil
	}
	name := filepath.Join(e.dir, e.name)
	known, kind := w.tree.known(name, e.mask), w.tree.arrived(e)
	if kind == "" && known {
		return nil
	}
	if kind == "" || kind == TemporaryNew && !known {
		w.report(name, typesOf(e.mask)...)
	}
	if kind != "" {
		w.report(name, Written)
	}
	if !w.opts.Recursive || e.mask&unix.IN_ISDIR == 0 || e.name == "" {
		return nil
	}
	return w.follow(name, e.mask)
}

func (w *Watch) report(name string, types ...EventType) {
	for _, t := range types {
		w.pending = append(w.pending, Event{Name: name, Type: t})
	}
}

// follow keeps a recursive watch on directories that come and go. One that comes may have got content
// before it was watched, which is then reported.
func (w *Watch) follow(dir string, mask uint32) error {
	switch {
	case mask&unix.IN_DELETE != 0:
		w.tree.drop(dir)
	case mask&unix.IN_MOVED_FROM != 0:
		w.tree.dropAll(dir)
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		moved := mask&unix.IN_MOVED_TO != 0
		err := w.tree.enter(dir, func(name string, e fs.DirEntry) error { return w.found(name, e, moved) })
		if err != nil {
			return watchError(dir, err)
		}
	}
	return nil
}

// found reports an entry of a directory that has come. Unless it has come with the directory, a file
// that is not empty has been written as well.
func (w *Watch) found(name string, e fs.DirEntry, moved bool) error {
	if len(w.pending) >= maxPending {
		return errorf(Exhausted, "events were lost: more than %d entries appeared at once", maxPending)
	}
	w.report(name, Created)
	if moved || !e.Type().IsRegular() {
		return nil
	}
	if info, err := e.Info(); err == nil && info.Size() > 0 {
		w.report(name, Written)
	}
	return nil
}

// typesOf translates a mask. The kernel sets one of the bits.
func typesOf(mask uint32) []EventType {
	switch {
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		return []EventType{Created}
	case mask&unix.IN_MODIFY != 0:
		return []EventType{Written}
	case mask&(unix.IN_DELETE|unix.IN_DELETE_SELF|unix.IN_UNMOUNT) != 0:
		return []EventType{Removed}
	case mask&(unix.IN_MOVED_FROM|unix.IN_MOVE_SELF) != 0:
		return []EventType{Renamed}
	case mask&unix.IN_ATTRIB != 0:
		return []EventType{ModeChanged}
	}
	return nil
}
