package boot

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// OpenConsole returns where PID 1 can say something: the console, else the kernel's log,
// else nowhere. The kernel has opened the console as standard error if there is one.
func OpenConsole() io.Writer {
	for _, path := range []string{"/dev/console", "/dev/kmsg"} {
		if file, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err == nil {
			return file
		}
	}
	return io.Discard
}
