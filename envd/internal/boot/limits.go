package boot

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// The limits of open files for envd and all that it starts. The kernel starts PID 1
	// with 1024 and 4096, which a development server outgrows; the soft one stays small
	// enough for programs that close every possible descriptor.
	softFiles = 65536
	hardFiles = 1 << 20 // fs.nr_open's default, the most there can be
)

// setLimits sets the resource limits that children inherit, and what the kernel does on
// the keyboard's reset.
func setLimits() error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: softFiles, Max: hardFiles}); err != nil {
		return fmt.Errorf("limit open files: %w", err)
	}
	// Firecracker's SendCtrlAltDel then asks PID 1, by SIGINT, instead of resetting.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("take over Ctrl-Alt-Del: %w", err)
	}
	return nil
}
