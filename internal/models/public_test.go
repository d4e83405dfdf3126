package models

import (
	"net/netip"
	"testing"
)

func TestNotPublic(t *testing.T) {
	for _, text := range []string{
		"0.0.0.0", "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.127.255.255",
		"192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:a00:1::", "2001::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
		"fec0::1", "ff02::1", "4000::1", "::ffff:0:10.0.0.1",
	} {
		if _, is := NotPublic(netip.MustParseAddr(text)); !is {
			t.Errorf("%s is taken for public", text)
		}
	}
	for _, text := range []string{"1.1.1.1", "172.32.0.1", "100.128.0.1", "11.0.0.1", "192.169.0.1", "2606:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1"} {
		if r, is := NotPublic(netip.MustParseAddr(text)); is {
			t.Errorf("%s is taken for %s", text, r.What)
		}
	}
	if _, is := NotPublic(netip.Addr{}); !is {
		t.Error("no address is taken for public")
	}
}
