package child

import (
	"fmt"
	"os"
	"sync"
)

// LogLimit is the usual limit of a child's log, in bytes.
const LogLimit = 4 << 20

// Log is a log file that never holds more than limit bytes. When it is full it
// becomes path.1, in place of the one before.
type Log struct {
	path  string
	limit int64

	mu   sync.Mutex // guards file and size
	file *os.File
	size int64
}

// OpenLog opens the log at path to append to it, or makes it.
func OpenLog(path string, limit int64) (*Log, error) {
	l := &Log{path: path, limit: limit}
	return l, l.open()
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open log: %w", err)
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Write never fails: a server must not stop because its log cannot be written.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(b)) > l.limit && l.size > 0 {
		l.rotate()
	}
	if l.file != nil && l.size+int64(len(b)) <= l.limit {
		n, _ := l.file.Write(b)
		l.size += int64(n)
	}
	return len(b), nil
}

func (l *Log) rotate() {
	l.file.Close()
	l.file, l.size = nil, 0
	if os.Rename(l.path, l.path+".1") != nil {
		_ = os.Remove(l.path)
	}
	_ = l.open() // on failure file stays nil and what follows is dropped
}

// Tail returns the last lines of the log, at most n bytes, for error messages.
func (l *Log) Tail(n int64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.Open(l.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	from := max(0, l.size-n)
	b := make([]byte, l.size-from)
	got, _ := f.ReadAt(b, from)
	return string(b[:got])
}

// Close closes the file; what is written later is dropped.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
