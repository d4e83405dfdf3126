package process

import (
	"fmt"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Size is the size of a terminal in characters.
type Size struct{ Cols, Rows uint32 }

// check makes sure that the size fits into a winsize (ioctl_tty(2)).
func (s *Size) check() error {
	if s.Cols > math.MaxUint16 || s.Rows > math.MaxUint16 {
		return errorf(Invalid, "a terminal cannot have %d columns and %d rows", s.Cols, s.Rows)
	}
	return nil
}

// openTerminal opens a pseudoterminal (pty(7)) whose other side is the child's standard input, output and error,
// and belongs to the spec's user as grantpt(3) has it.
func (p *stdio) openTerminal(spec *Spec) (err error) {
	if p.terminal, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	number, err := unlockTerminal(p.terminal)
	if err != nil {
		return fmt.Errorf("unlock a terminal: %w", err)
	}
	if err := resize(p.terminal, spec.Terminal); err != nil {
		return err
	}
	path := "/dev/pts/" + strconv.Itoa(number)
	child, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.child = [3]*os.File{child, child, child}
	if os.Geteuid() != 0 {
		return nil
	}
	return child.Chown(int(spec.User.UID), -1)
}

// unlockTerminal makes the other side of a terminal usable and returns its number (ioctl_tty(2)).
func unlockTerminal(master *os.File) (number int, err error) {
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		if err != nil {
			return err
		}
		return understandUTF8(fd)
	})
	return number, err
}

// understandUTF8 lets the terminal's own line editing erase whole characters.
func understandUTF8(fd int) error {
	modes, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	modes.Iflag |= unix.IUTF8
	return unix.IoctlSetTermios(fd, unix.TCSETS, modes)
}

func resize(master *os.File, size *Size) error {
	window := &unix.Winsize{Col: uint16(size.Cols), Row: uint16(size.Rows)}
	return control(master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, window) })
}

// control calls f with the file's descriptor, and leaves the file non-blocking.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Resize gives the process's terminal another size, of which the kernel tells what runs in the foreground.
func (p *Process) Resize(size Size) error {
	if err := size.check(); err != nil {
		return err
	}
	if !p.in.terminal {
		return errorf(Ended, "the process does not run on a terminal")
	}
	if terminal := p.in.open(); terminal != nil && resize(terminal, &size) == nil {
		return nil
	}
	return errorf(Ended, "the process's terminal is closed")
}

// Terminal reports whether the process runs on a terminal.
func (p *Process) Terminal() bool { return p.in.terminal }
