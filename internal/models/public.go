package models

import "net/netip"

// NotPublic returns what an address is that is not one of the public internet, whichever way it is written: IPv4 in the form of IPv6 is IPv4.
func NotPublic(a netip.Addr) (Range, bool) {
	a = a.Unmap().WithZone("")
	for _, ranges := range [][]Range{AlwaysDenied, PrivateRanges} {
		for _, r := range ranges {
			if r.Contains(a) {
				return r, true
			}
		}
	}
	return Range{}, !a.IsValid()
}
