package boot

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseArguments(t *testing.T) {
	line := "console=ttyS0 root=/dev/vda rw wrenn.hostname=sb-0123abcd wrenn.ip=10.0.0.2/30 wrenn.gw=10.0.0.1 " +
		"wrenn.ip6=fd57::2/126 wrenn.gw6=fd57::1 wrenn.dns=1.1.1.1,8.8.8.8 wrenn.transport=vsock wrenn.new=x virtio_mmio.device=512@0xfeb00e00:12\n"
	want := arguments{transport: "vsock", settings: Settings{
		Hostname: "sb-0123abcd",
		Address:  netip.MustParsePrefix("10.0.0.2/30"),
		Gateway:  netip.MustParseAddr("10.0.0.1"),
		IPv6:     ipv6("fd57::2/126", "fd57::1"),
		DNS:      []netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("8.8.8.8")},
	}}
	if got, err := parseArguments(line); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// What is wrong is named, and the rest is still there.
func TestParseArgumentsNamesWhatIsWrong(t *testing.T) {
	got, err := parseArguments("wrenn.ip=10.0.0.2 wrenn.gw=nowhere wrenn.dns=1.1.1.1, wrenn.transport=vsock")
	if err == nil || got.transport != "vsock" || got.settings.Address.IsValid() || got.settings.DNS != nil {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, text := range []string{"wrenn.ip=10.0.0.2:", "wrenn.gw=nowhere:", "wrenn.dns=1.1.1.1,:"} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not name %q: %v", text, err)
		}
	}
}

func FuzzParseArguments(f *testing.F) {
	f.Add("wrenn.ip=10.0.0.2/30 wrenn.dns=1.1.1.1,8.8.8.8")
	f.Add("wrenn.gw= wrenn.=x wrenn.ip")
	f.Fuzz(func(t *testing.T, line string) {
		if got, err := parseArguments(line); err == nil && got.settings.DNS != nil && !strings.Contains(line, "wrenn.dns=") {
			t.Errorf("name servers %v", got.settings.DNS)
		}
	})
}

func TestHosts(t *testing.T) {
	for old, want := range map[string]string{
		"": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tsb-1\t# set by envd\n",
		"127.0.0.1 localhost\n10.1.1.1 mine # of mine":         "127.0.0.1 localhost\n10.1.1.1 mine # of mine\n127.0.1.1\tsb-1\t# set by envd\n",
		"127.0.1.1\told\t# set by envd\n127.0.0.1 localhost\n": "127.0.0.1 localhost\n127.0.1.1\tsb-1\t# set by envd\n",
	} {
		if got := string(hosts([]byte(old), "sb-1")); got != want {
			t.Errorf("from %q: got %q, want %q", old, got, want)
		}
		if again := string(hosts([]byte(want), "sb-1")); again != want {
			t.Errorf("a second time: got %q, want %q", again, want)
		}
	}
}

func TestValidHostname(t *testing.T) {
	for name, want := range map[string]bool{
		"sb-0123abcd": true, "a": true, "A9": true, strings.Repeat("a", 63): true,
		"":   true, // leaves the name as it is
		"-a": false, "a-": false, "a.b": false, "a b": false, "a\nb": false, "é": false, strings.Repeat("a", 64): false,
	} {
		if got := validHostname(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

func TestMask(t *testing.T) {
	for bits, want := range map[int][4]byte{0: {}, 8: {255}, 30: {255, 255, 255, 252}, 32: {255, 255, 255, 255}} {
		if got := mask(bits); got != want {
			t.Errorf("/%d: %v", bits, got)
		}
	}
}
