package boot

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Identity is what a guest that was frozen must not go on with: another may have been made from the same snapshot, or time
// has passed. What is left zero stays, but for Time and Entropy, which are always given.
type Identity struct {
	Settings
	MachineID string           // of /etc/machine-id, 32 hexadecimal digits
	MAC       net.HardwareAddr // of eth0
	Entropy   []byte           // the host's, at least 32 bytes
}

// Result is what became of one step of Resume.
type Result struct {
	Name string
	Kept bool // nothing was asked for
	Err  error
	Took time.Duration
}

// Resume gives a guest that was restored from a snapshot its identity. It stops at the first step that fails, which is
// then the last of the results.
func (m *Machine) Resume(ctx context.Context, id Identity) []Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	var results []Result
	for _, s := range []struct {
		name string
		kept bool
		do   func() error
	}{
		{"clock", false, func() error { return setClock(id.Time) }},
		{"randomness", false, func() error { return reseed(id.Entropy) }},
		{"machine_id", id.MachineID == "", func() error { return setMachineID(id.MachineID) }},
		{"hostname", id.Hostname == "", func() error { return setHostname(id.Hostname) }},
		{"mac", id.MAC == nil, func() error { return setMAC(id.MAC) }},
		{"address", !id.Address.IsValid() && id.IPv6 == nil, func() error { return m.setAddresses(id.Settings) }},
		{"dns", len(id.DNS) == 0, func() error { return setResolvers(id.DNS) }},
	} {
		start, err := time.Now(), context.Cause(ctx)
		if err == nil && !s.kept {
			err = s.do()
		}
		results = append(results, Result{Name: s.name, Kept: s.kept, Err: err, Took: time.Since(start)})
		if err != nil {
			break
		}
	}
	return results
}

// MinEntropy is how many bytes the kernel's generator is seeded with at least: its state has 256 bits.
const MinEntropy = 32

// reseed gives the kernel the host's random bytes and has it take them into use at once, on all processors: random(4). Until then, all
// guests made from one snapshot draw the same numbers.
func reseed(entropy []byte) error {
	if len(entropy) < MinEntropy {
		return fmt.Errorf("%d bytes of entropy are less than %d", len(entropy), MinEntropy)
	}
	return withFile("/dev/urandom", unix.O_RDWR, func(random int) error {
		if err := addEntropy(random, entropy); err != nil {
			return fmt.Errorf("add entropy: %w", err)
		}
		const reseedCRNG = 0x5207 // RNDRESEEDCRNG of <linux/random.h>
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(random), reseedCRNG, 0); errno != 0 {
			return fmt.Errorf("reseed: %w", errno)
		}
		return nil
	})
}

// maxEntropy is how much of the entropy is used.
const maxEntropy = 256

// addEntropy credits every bit of entropy.
func addEntropy(random int, entropy []byte) error {
	pool := struct { // struct rand_pool_info of <linux/random.h>
		bits, size int32
		bytes      [maxEntropy]byte
	}{}
	n := copy(pool.bytes[:], entropy)
	pool.bits, pool.size = int32(8*n), int32(n)
	// The kernel copies what it is given and keeps no pointer into it.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(random), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool)))
	if errno != 0 {
		return errno
	}
	return nil
}

// setMachineID writes the id of machine-id(5). Where D-Bus has a copy of its own, that is replaced too.
func setMachineID(id string) error {
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 {
		return fmt.Errorf("%q is no machine id", id)
	}
	if err := setFile("/etc/machine-id", []byte(id+"\n")); err != nil {
		return err
	}
	const bus = "/var/lib/dbus/machine-id"
	info, err := os.Lstat(bus)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() { // or it is a link to the one above
		return nil
	}
	if err != nil {
		return err
	}
	return setFile(bus, []byte(id+"\n"))
}

// hardwareRequest is struct ifreq of netdevice(7) with a hardware address.
type hardwareRequest struct {
	name    [unix.IFNAMSIZ]byte
	family  uint16
	address [14]byte
	_       [8]byte
}

// setMAC gives eth0 a hardware address, also the one that it has: either way the kernel forgets the neighbours that it knew, of which the
// gateway may be another device by now with the same address.
func setMAC(mac net.HardwareAddr) error {
	if len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("%q is no unicast Ethernet address", mac)
	}
	request := hardwareRequest{family: unix.ARPHRD_ETHER}
	copy(request.name[:], ethernet)
	copy(request.address[:], mac)
	return withSocket(func(fd int) error {
		// The kernel copies the structure and keeps no pointer into it.
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return fmt.Errorf("%s: %w", ethernet, errno)
		}
		return nil
	})
}

// hasAddress reports whether eth0 has this address already. Setting it once more would take it away for a moment, and with
// it the routes of connections that are open.
func hasAddress(fd int, want [4]byte, operation uint) bool {
	request, err := unix.NewIfreq(ethernet)
	if err == nil {
		err = unix.IoctlIfreq(fd, operation, request)
	}
	if err != nil {
		return false
	}
	have, err := request.Inet4Addr()
	return err == nil && [4]byte(have) == want
}

var errNotSet = errors.New("it was set, and is not what it was set to")
