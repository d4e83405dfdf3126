package network

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Packets as guests send them, whole and broken.
var sampled = map[string]struct {
	packet   []byte
	protocol string
	to       string
}{
	"udp":              {[]byte("\x45\x00\x00\x1c\x00\x01\x40\x00\x40\x11\x00\x00\x0a\x00\x00\x02\xc0\x00\x02\x02\x23\x28\x1b\x58\x00\x08\x00\x00"), "udp", "192.0.2.2:7000"},
	"options":          {[]byte("\x46\x00\x00\x20\x00\x01\x40\x00\x40\x06\x00\x00\x0a\x00\x00\x02\xc0\x00\x02\x02\x01\x01\x01\x00\x23\x28\x00\x50"), "tcp", "192.0.2.2:80"},
	"later fragment":   {[]byte("\x45\x00\x00\x1c\x00\x01\x00\x01\x40\x11\x00\x00\x0a\x00\x00\x02\xc0\x00\x02\x02\x23\x28\x1b\x58\x00\x08\x00\x00"), "udp", "192.0.2.2:0"},
	"no ports":         {[]byte("\x45\x00\x00\x14\x00\x01\x40\x00\x40\x06\x00\x00\x0a\x00\x00\x02\xc0\x00\x02\x02\x23\x28\x00"), "tcp", "192.0.2.2:0"},
	"options cut":      {[]byte("\x4f\x00\x00\x14\x00\x01\x40\x00\x40\x11\x00\x00\x0a\x00\x00\x02\xc0\x00\x02\x02\x01\x01"), "udp", "192.0.2.2:0"},
	"header too small": {[]byte("\x42\x00\x00\x1c\x00\x01\x40\x00\x40\x11\x00\x00\x0a\x00\x00\x02\xc0\x00\x02\x02\x23\x28\x1b\x58\x00\x08\x00\x00"), "unknown", ""},
	"gre":              {[]byte("\x45\x00\x00\x18\x00\x01\x40\x00\x40\x2f\x00\x00\x0a\x00\x00\x02\xc0\x00\x02\x02\x00\x00\x08\x00"), "47", "192.0.2.2:0"},
	"ipv6":             {[]byte("\x60\x00\x00\x00\x00\x08\x11\x40\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01\x00\x35\x00\x08\x00\x00"), "udp", "[2001:db8::1]:53"},
	"ipv6 fragment":    {[]byte(ipv6Header("\x2c") + "\x11\x00\x00\x01\x00\x00\x00\x07\x23\x28\x1b\x58"), "udp", "[2001:db8::1]:7000"},
	"ipv6, later one":  {[]byte(ipv6Header("\x2c") + "\x11\x00\x00\x09\x00\x00\x00\x07\x23\x28\x1b\x58"), "udp", "[2001:db8::1]:0"},
	"ipv6, cut one":    {[]byte(ipv6Header("\x2c") + "\x11\x00"), "44", "[2001:db8::1]:0"},
	"icmpv6":           {[]byte(ipv6Header("\x3a") + "\x86\x00\x00\x00\x00\x00\x00\x00"), "icmpv6", "[2001:db8::1]:0"},
	"nothing":          {nil, "unknown", ""},
	"cut":              {[]byte("\x45\x00\x00"), "unknown", ""},
}

// ipv6Header is one from a link-local address to 2001:db8::1.
func ipv6Header(next string) string {
	return "\x60\x00\x00\x00\x00\x0c" + next + "\x40\xfe\x80" + strings.Repeat("\x00", 13) + "\x02\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01"
}

func TestParsePacket(t *testing.T) {
	for name, test := range sampled {
		var want netip.AddrPort
		if test.to != "" {
			want = netip.MustParseAddrPort(test.to)
		}
		if protocol, to := parsePacket(test.packet); protocol != test.protocol || to != want {
			t.Errorf("%s: %s to %s, want %s to %s", name, protocol, to, test.protocol, want)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	for _, test := range sampled {
		f.Add(test.packet)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		protocol, to := parsePacket(b)
		if protocol == "" || (protocol == "unknown") == to.Addr().IsValid() {
			t.Errorf("%q to %s", protocol, to)
		}
		if to.Port() != 0 && protocol != "tcp" && protocol != "udp" {
			t.Errorf("%s has port %d", protocol, to.Port())
		}
	})
}

// However many kinds of refusals come, no more than the bound wait; equal ones are one.
func TestWaitingRefusalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		samples, out := make(chan Refusal), make(chan Refusal, 10*maxRefusals)
		go func() {
			defer close(out)
			gather(samples, out)
		}()
		for round := range 2 {
			for i := range 3 * maxRefusals {
				r := Refusal{Rule: "private", To: netip.AddrPortFrom(address(uint32(i)), 80), Count: 1}
				samples <- r
				samples <- r
			}
			time.Sleep(2 * refusalWindow)
			synctest.Wait()
			if want := (round + 1) * maxRefusals; len(out) != want {
				t.Errorf("%d refusals, want %d", len(out), want)
			}
		}
		close(samples)
		for r := range out {
			if r.Count != 2 {
				t.Errorf("refusal = %+v, want a count of 2", r)
			}
		}
	})
}
