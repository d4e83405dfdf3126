package vm

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// The console of a VM is kept in two files of its folder, each of at most
// ConsoleFileSize bytes: ConsoleFile, and the one before it.
const (
	ConsoleFile     = "console.log"
	ConsoleFileSize = 256 << 10
)

// previous is what the name of a log's older file ends in.
const previous = ".1"

// Log keeps the last part of what is written to it, in the file it is opened for and in the one before it, whose name
// ends in ".1". It may be opened again, for instance by a restarted agent, and then goes on where it ended.
type Log struct {
	path  string
	limit int64 // of each of the two files, in bytes

	mu   sync.Mutex
	file *os.File // nil after Close, and after a failure to make a new file
	size int64
	err  error // the first failure to keep output
	done bool
}

// OpenConsole opens the console of the VM in dir, and makes it where it is missing.
func OpenConsole(dir string) (*Log, error) {
	return OpenLog(filepath.Join(dir, ConsoleFile), ConsoleFileSize)
}

// OpenLog opens the log at path, whose two files have up to limit bytes each, and makes it where it is missing.
func OpenLog(path string, limit int64) (*Log, error) {
	l := &Log{path: path, limit: limit}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// Keep copies r to the console until r ends or fails, and returns r's error, if any. It reads on when the files
// cannot be written (a full disk): a guest is never held up by its console.
func (l *Log) Keep(r io.Reader) error {
	_, err := io.Copy(struct{ io.Writer }{l}, r)
	return err
}

// Write appends p. It always takes all of p: what cannot be kept is dropped, and Close says so.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0 && !l.done; {
		n, err := l.append(rest)
		if err != nil {
			l.err = cmp.Or(l.err, err)
			break
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// Close closes the files and returns the first failure to keep output. What is written later is dropped.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return nil
	}
	l.done = true
	if l.file == nil {
		return l.err
	}
	return errors.Join(l.err, l.file.Close())
}

// append writes what of p fits in the current file, after a rotation where it is full.
func (l *Log) append(p []byte) (int, error) {
	if err := l.makeRoom(); err != nil {
		return 0, err
	}
	n, err := l.file.Write(p[:min(int64(len(p)), l.limit-l.size)])
	l.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("keep %s: %w", l.path, err)
	}
	return n, nil
}

// makeRoom leaves a file that is open and not full.
func (l *Log) makeRoom() error {
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.size < l.limit {
		return nil
	}
	l.file.Close() // a console is worth no fsync, and its write errors were returned by Write
	l.file = nil
	if err := os.Rename(l.path, l.path+previous); err != nil {
		return fmt.Errorf("rotate %s: %w", l.path, err)
	}
	return l.open()
}

func (l *Log) open() error {
	f, size, err := openFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
	if err != nil {
		return fmt.Errorf("open %s: %w", l.path, err)
	}
	l.file, l.size = f, size
	return nil
}

// openFile opens what must be a file, and no link to one: the folder may be that of a VMM that a guest has taken over, which
// must not lead us elsewhere, nor have us wait at the end of a pipe.
func openFile(path string, flags int) (*os.File, int64, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file, but %v", path, info.Mode())
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// ReadConsole returns the last part, at most 2*ConsoleFileSize bytes, of what the guest of the VM in dir wrote to its
// console. It may be called at any time, also while the VM runs. A VM that never ran has an empty console.
func ReadConsole(dir string) ([]byte, error) {
	return ReadLog(filepath.Join(dir, ConsoleFile), ConsoleFileSize)
}

// ReadLog returns what the log at path has kept, which is nothing if it does not exist.
func ReadLog(path string, limit int64) ([]byte, error) {
	text, rotated, err := readLog(path, limit)
	for tries := 1; rotated && tries < 10; tries++ { // a guest that floods rotates faster than we read
		text, rotated, err = readLog(path, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

// readLog also says whether the files were rotated while it opened them, so that text is out of order.
func readLog(path string, limit int64) (text []byte, rotated bool, err error) {
	last, err := openIfExists(path)
	if err != nil {
		return nil, false, err
	}
	defer last.Close()
	before, err := openIfExists(path + previous)
	if err != nil {
		return nil, false, err
	}
	defer before.Close()
	rotated = !isFile(last, path)
	text, err = readAll(limit, before, last)
	return text, rotated, err
}

// openIfExists returns nil for a file that does not exist; Close of a nil file is harmless.
func openIfExists(path string) (*os.File, error) {
	f, _, err := openFile(path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// isFile reports whether f, nil for none, is what path names now.
func isFile(f *os.File, path string) bool {
	now, err := os.Lstat(path)
	if f == nil || err != nil {
		return f == nil && errors.Is(err, fs.ErrNotExist)
	}
	then, err := f.Stat()
	return err == nil && os.SameFile(then, now)
}

func readAll(limit int64, files ...*os.File) ([]byte, error) {
	var text []byte
	for _, f := range files {
		if f == nil {
			continue
		}
		part, err := io.ReadAll(io.LimitReader(f, limit))
		if err != nil {
			return nil, err
		}
		text = append(text, part...)
	}
	return text, nil
}
