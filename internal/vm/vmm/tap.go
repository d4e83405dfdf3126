package vmm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenTAP opens an existing TAP device of this program's network namespace for a VMM that gets it as a descriptor. It fails with
// EBUSY while another VMM has it. The caller closes its copy.
func OpenTAP(name string) (*os.File, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("open tap %q: %w", name, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open tap %s: %w", name, err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// GiveTAP lets owner, and beside root nobody else, open an existing TAP device by its name. It fails with EBUSY while a VMM has it.
func GiveTAP(name string, owner uint32) error {
	tap, err := OpenTAP(name)
	if err != nil {
		return err
	}
	defer tap.Close()
	raw, err := tap.SyscallConn()
	if err != nil {
		return fmt.Errorf("give tap %s away: %w", name, err)
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		inner = errors.Join(unix.IoctlSetInt(int(fd), unix.TUNSETOWNER, int(owner)), unix.IoctlSetInt(int(fd), unix.TUNSETGROUP, int(owner)))
	})
	if err := errors.Join(err, inner); err != nil {
		return fmt.Errorf("give tap %s away: %w", name, err)
	}
	return nil
}
