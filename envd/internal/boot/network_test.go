package boot

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
	"golang.org/x/sys/unix"
)

// inNetwork runs do in a network namespace of its own, with an eth0 that leads nowhere.
// The thread is thrown away afterwards, and the namespace with it.
func inNetwork(t *testing.T, do func()) {
	t.Helper()
	testlane.NeedRoot(t)
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		tap, err := makeTAP(ethernet)
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = unix.Close(tap) }()
		do()
	}()
	if err := <-done; err != nil {
		testlane.Missing(t, "a network namespace with a TAP device: "+err.Error())
	}
}

// makeTAP makes a device that exists until the descriptor is closed.
func makeTAP(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
}

// routes returns device, destination, gateway and mask of each route of this thread's
// namespace, in the kernel's hexadecimal.
func routes(t *testing.T) []string {
	text, err := os.ReadFile("/proc/thread-self/net/route")
	if err != nil {
		t.Error(err)
	}
	var list []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] != "Iface" {
			list = append(list, f[0]+" "+f[1]+" "+f[2]+" "+f[7])
		}
	}
	slices.Sort(list)
	return list
}

// A second address takes the place of the first, with its routes: the guest was cloned.
func TestSetAddress(t *testing.T) {
	inNetwork(t, func() {
		for _, test := range []struct {
			address, gateway string
			want             []string
		}{
			{"10.0.0.2/30", "10.0.0.1", []string{"eth0 00000000 0100000A 00000000", "eth0 0000000A 00000000 FCFFFFFF"}},
			{"10.0.0.2/30", "10.0.0.1", []string{"eth0 00000000 0100000A 00000000", "eth0 0000000A 00000000 FCFFFFFF"}},
			{"10.0.9.6/30", "10.0.9.5", []string{"eth0 00000000 0509000A 00000000", "eth0 0409000A 00000000 FCFFFFFF"}},
		} {
			if err := setAddress(netip.MustParsePrefix(test.address), netip.MustParseAddr(test.gateway)); err != nil {
				t.Errorf("%s: %v", test.address, err)
			}
			if got := routes(t); !slices.Equal(got, test.want) {
				t.Errorf("%s: routes %q, want %q", test.address, got, test.want)
			}
		}
	})
}

func TestSetAddressRefuses(t *testing.T) {
	inNetwork(t, func() {
		for address, gateway := range map[string]string{"10.0.0.2/30": "10.0.1.1", "fd00::2/64": "fd00::1", "10.0.0.6/30": "fd00::1"} {
			if err := setAddress(netip.MustParsePrefix(address), netip.MustParseAddr(gateway)); err == nil {
				t.Errorf("%s by %s: no error", address, gateway)
			}
		}
		if got := routes(t); len(got) != 0 {
			t.Errorf("routes %q", got)
		}
	})
}

func TestStartLoopback(t *testing.T) {
	inNetwork(t, func() {
		if err := startLoopback(); err != nil {
			t.Error(err)
		}
		if err := connectLoopback(); err != nil {
			t.Error(err)
		}
	})
}

// connectLoopback sends a datagram from 127.0.0.1 to itself.
func connectLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	own := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(fd, own); err != nil {
		return err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	return unix.Sendto(fd, []byte("x"), 0, bound)
}
