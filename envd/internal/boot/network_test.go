package boot

import (
	"encoding/hex"
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

// A guest has the IPv6 address that it was told last, and a route by its gateway; or none, and is silent. What is so already is not touched.
func TestSetIPv6(t *testing.T) {
	inNetwork(t, func() {
		if err := startLoopback(); err != nil {
			t.Error(err)
		}
		m := &Machine{}
		if err := m.setAddresses(Settings{}); err != nil {
			t.Errorf("nothing to set: %v", err)
		}
		ipv4 := netip.MustParsePrefix("10.0.0.2/30")
		for _, test := range []struct {
			settings Settings
			address  string // wanted
			gateway  string
		}{
			{Settings{Address: ipv4}, "", ""},
			{Settings{Address: ipv4, IPv6: ipv6("fd57::2/126", "fd57::1")}, "fd57::2/126", "fd57::1"},
			{Settings{IPv6: ipv6("fd57::2/126", "fd57::1")}, "fd57::2/126", "fd57::1"},
			{Settings{}, "fd57::2/126", "fd57::1"},
			{Settings{IPv6: ipv6("fd57::6/126", "fd57::5")}, "fd57::6/126", "fd57::5"},
			{Settings{IPv6: &IPv6{}}, "", ""},
			{Settings{IPv6: ipv6("fd57::a/126", "fd57::9")}, "fd57::a/126", "fd57::9"},
			{Settings{Address: ipv4}, "", ""},
			{Settings{IPv6: &IPv6{}}, "", ""},
			{Settings{IPv6: ipv6("fd57::e/126", "fd57::d")}, "fd57::e/126", "fd57::d"},
			{Settings{IPv6: &IPv6{}}, "", ""},
		} {
			if err := m.setAddresses(test.settings); err != nil {
				t.Errorf("%+v: %v", test.settings, err)
			}
			addresses, err := ipv6Addresses()
			if got := sprint(addresses); err != nil || got != test.address {
				t.Errorf("%+v: addresses %v, %v, want %q", test.settings, addresses, err, test.address)
			}
			if got := gatewayIPv6(t); got != test.gateway {
				t.Errorf("%+v: gateway %q, want %q", test.settings, got, test.gateway)
			}
			if knob, err := os.ReadFile(ipv6Knobs + "accept_ra"); test.address != "" && (err != nil || strings.TrimSpace(string(knob)) != "0") {
				t.Errorf("routers are believed: %q, %v", knob, err)
			}
		}
	})
}

func TestSetIPv6Refuses(t *testing.T) {
	inNetwork(t, func() {
		for _, bad := range []*IPv6{
			ipv6("fd57::2/126", "fd57:1::1"), ipv6("10.0.0.2/30", "10.0.0.1"), ipv6("::ffff:10.0.0.2/126", "::ffff:10.0.0.1"), {Address: netip.MustParsePrefix("fd57::2/126")},
		} {
			if err := new(Machine).setAddresses(Settings{IPv6: bad}); err == nil {
				t.Errorf("%+v: no error", bad)
			}
		}
	})
}

func ipv6(address, gateway string) *IPv6 {
	return &IPv6{Address: netip.MustParsePrefix(address), Gateway: netip.MustParseAddr(gateway)}
}

func sprint(list []netip.Prefix) (text string) {
	for _, p := range list {
		text += p.String()
	}
	return text
}

// gatewayIPv6 is where the default route of this thread's namespace by eth0 leads, "" without.
func gatewayIPv6(t *testing.T) string {
	text, err := os.ReadFile("/proc/thread-self/net/ipv6_route")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 10 && f[1] == "00" && f[9] == ethernet {
			raw, err := hex.DecodeString(f[4])
			addr, ok := netip.AddrFromSlice(raw)
			if err == nil && ok {
				return addr.String()
			}
		}
	}
	return ""
}
