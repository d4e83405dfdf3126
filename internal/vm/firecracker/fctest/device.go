package fctest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// openTAP opens a TAP with the flags that Firecracker uses. As there, a TAP that does not exist is made.
func openTAP(name string) (*os.File, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("tap name %q: %w", name, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openOutput opens a file or FIFO as Firecracker opens its log and its metrics: read-write, so that a FIFO without a reader
// is no error, and non-blocking, so that a full one is none either.
func openOutput(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// dropping writes to a file and drops what does not fit a full pipe, as Firecracker's serial device does.
type dropping struct {
	file *os.File
}

func (d dropping) Write(p []byte) (int, error) {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Write(func(fd uintptr) bool {
		for rest := p; len(rest) > 0; {
			n, err := unix.Write(int(fd), rest)
			if err != nil {
				break
			}
			rest = rest[n:]
		}
		return true
	})
	return len(p), err
}

// logLine formats a line as Firecracker does: time, instance, thread and text.
func logLine(id, thread, text string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s [%s:%s] %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000000000"), id, thread, text)
	return b.Bytes()
}

func checkELF(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
