package network

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestAddressesOfSlots(t *testing.T) {
	s, err := newSlots(DefaultSubnet, DefaultSubnetIPv6, 0)
	if err != nil || s.count() != 16384 {
		t.Fatalf("%d slots, %v", s.count(), err)
	}
	for index, want := range map[int][2]string{
		0: {"10.0.0.1", "10.0.0.2/30"}, 1: {"10.0.0.5", "10.0.0.6/30"},
		64: {"10.0.1.1", "10.0.1.2/30"}, 16383: {"10.0.255.253", "10.0.255.254/30"},
	} {
		slot := s.slot(index)
		if slot.Gateway.String() != want[0] || slot.Guest.String() != want[1] || slot.Index != index {
			t.Errorf("slot %d = %+v, want %v", index, slot, want)
		}
	}
}

func TestSubnetsThatCannotBeUsed(t *testing.T) {
	for _, bad := range []string{"10.0.0.0/15", "10.0.0.0/31", "10.0.0.1/16", "fd00::/120"} {
		if _, err := newSlots(netip.MustParsePrefix(bad), DefaultSubnetIPv6, 0); models.CodeOf(err) != models.Invalid {
			t.Errorf("%s: %v, want an invalid error", bad, err)
		}
	}
	for _, bad := range []string{"2001:db8::/112", "fc00::/7", "fd00::/113", "fd00::1/112", "10.0.0.0/16"} {
		if _, err := newSlots(DefaultSubnet, netip.MustParsePrefix(bad), 0); models.CodeOf(err) != models.Invalid {
			t.Errorf("%s: %v, want an invalid error", bad, err)
		}
	}
	for _, good := range []string{"fd00::/8", "fd00:1::/112"} {
		if _, err := newSlots(DefaultSubnet, netip.MustParsePrefix(good), 0); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, good := range []string{"10.0.0.0/30", "192.168.4.0/24"} {
		if _, err := newSlots(netip.MustParsePrefix(good), DefaultSubnetIPv6, 0); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

// Against a model that is a plain list: a slot has one holder, the longest free comes first, a
// slot that is released twice or by an earlier holder stays with its present one.
func TestSlotsAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := newSlots(netip.MustParsePrefix("10.0.0.0/27"), DefaultSubnetIPv6, 0) // 8 slots
		if err != nil {
			t.Fatal(err)
		}
		var queue []int
		for e := s.free.Front(); e != nil; e = e.Next() {
			queue = append(queue, e.Value.(int))
		}
		var held, gone []Slot
		occupied := map[int]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				at := slices.IndexFunc(queue, func(i int) bool { return !occupied[i] })
				slot, err := s.reserve(func(slot Slot) (bool, error) { return occupied[slot.Index], nil })
				if at < 0 {
					if models.CodeOf(err) != models.Exhausted {
						t.Fatalf("nothing is free: %+v, %v", slot, err)
					}
					return
				}
				if err != nil || slot.Index != queue[at] {
					t.Fatalf("reserved %+v, %v; want %d", slot, err, queue[at])
				}
				queue = append(slices.Clone(queue[at+1:]), queue[:at]...)
				held = append(held, slot)
			},
			"take": func(t *rapid.T) {
				index := rapid.IntRange(-1, 8).Draw(t, "index")
				slot, err := s.take(index)
				at := slices.Index(queue, index)
				if (at >= 0) != (err == nil) {
					t.Fatalf("took %d: %v, free are %v", index, err, queue)
				}
				if err == nil {
					queue = slices.Delete(queue, at, at+1)
					held = append(held, slot)
				}
			},
			"release": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip("nothing is held")
				}
				at := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				s.release(held[at])
				queue, gone = append(queue, held[at].Index), append(gone, held[at])
				held = slices.Delete(held, at, at+1)
			},
			"release again": func(t *rapid.T) {
				if len(gone) > 0 {
					s.release(rapid.SampledFrom(gone).Draw(t, "which"))
				}
				s.release(Slot{Index: rapid.IntRange(-1, 8).Draw(t, "index")})
			},
			"occupy": func(t *rapid.T) {
				index := rapid.IntRange(0, 7).Draw(t, "index")
				occupied[index] = !occupied[index]
			},
			"": func(t *rapid.T) {
				if s.free.Len() != len(queue) || len(held)+len(queue) != 8 {
					t.Fatalf("%d free, want %d; %d held", s.free.Len(), len(queue), len(held))
				}
			},
		})
	})
}

func TestReservePassesErrorsOn(t *testing.T) {
	s, err := newSlots(DefaultSubnet, DefaultSubnetIPv6, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := errors.New("the kernel does not answer")
	if _, err := s.reserve(func(Slot) (bool, error) { return false, want }); !errors.Is(err, want) {
		t.Errorf("error = %v", err)
	}
	if s.free.Len() != s.count() {
		t.Error("a slot got lost")
	}
}

func TestMACsAreLocalAndDiffer(t *testing.T) {
	a, b := GuestMAC("sb-00000001"), GuestMAC("sb-ffffffff")
	if a.String() != "06:57:00:00:00:01" || b.String() != "06:57:ff:ff:ff:ff" {
		t.Errorf("MACs %s and %s", a, b)
	}
	for _, mac := range [][]byte{a, b, gatewayMAC} {
		if mac[0]&0x03 != 0x02 { // locally administered, not a group: IEEE 802-2014, 8.2
			t.Errorf("%x is not a local unicast address", mac)
		}
	}
	if slices.Equal(a[:2], gatewayMAC[:2]) {
		t.Error("a guest could have the gateway's address")
	}
}

// A device may go between the moment when it is listed and that when it is told to listen to its router.
func TestKnobOfADeviceThatHasGone(t *testing.T) {
	if err := keepAdvertisements(knobsIPv6 + "/no-such-device/accept_ra"); err != nil {
		t.Error(err)
	}
}
