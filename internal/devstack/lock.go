package devstack

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Lock takes the file at path for this process alone. The kernel gives it back when
// the process ends, however it ends. A lock that another process holds is a Conflict
// error that names the process.
func Lock(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if err == syscall.EWOULDBLOCK {
			return nil, inUse(f)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write lock: %w", err)
	}
	if _, err := fmt.Fprintf(f, "%d\n", os.Getpid()); err != nil {
		f.Close()
		return nil, fmt.Errorf("write lock: %w", err)
	}
	return func() { f.Close() }, nil
}

func inUse(f *os.File) error {
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	return models.Errorf(models.Conflict, "%s is in use by process %s", f.Name(), strings.TrimSpace(string(b[:n]))).
		WithHint("stop that process first, or use another data folder")
}
