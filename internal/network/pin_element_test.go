package network

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// Of several names that lead to an address the one that lasts is pinned, whichever comes first, and no more addresses than there may be.
func TestPinElements(t *testing.T) {
	policy, addr, now := Policy{Names: true}, netip.MustParseAddr("203.0.113.9"), time.Now()
	brief, long := Pinned{"brief.example", addr, now.Add(time.Minute)}, Pinned{"long.example", addr, now.Add(time.Hour)}
	for _, list := range [][]Pinned{{brief, long}, {long, brief}} {
		if got := policy.pinElements(1, list); len(got) != 1 || got[0].name != "long.example" || got[0].ttl < time.Minute {
			t.Errorf("of %v: %+v", list, got)
		}
	}
	var many []Pinned
	for i := range 2 * maxPins {
		many = append(many, Pinned{"many.example", address(1<<24 + uint32(i)), now.Add(time.Hour)})
	}
	many = append(many, Pinned{"later.example", many[0].Addr, now.Add(2 * time.Hour)})
	if got := policy.pinElements(1, many); len(got) != maxPins {
		t.Errorf("%d elements, want %d", len(got), maxPins)
	}
	for _, ttl := range []time.Duration{-time.Hour, 0, time.Millisecond, 1000 * time.Hour} {
		if got := pinElement(1, "a.example", addr, ttl).ttl; got < time.Second || got > maxPinTime {
			t.Errorf("of %s: %s", ttl, got)
		}
	}
}

// What is told of a device's pins are those with a name that have not come to their end.
func TestPinsThatAreTold(t *testing.T) {
	now, pinned := time.Now(), map[slotOf]pinLife{}
	for i, p := range []pinLife{{now.Add(time.Hour), "a.example"}, {now.Add(time.Hour), ""}, {now.Add(-pinGrace / 2), "ended.example"}} {
		pinned[slotOf{pins, word(1) + ip(address(uint32(i)))}] = p
	}
	h := held{pins: map[uint32]map[slotOf]pinLife{7: pinned}}
	if got := h.pinned(7); len(got) != 1 || got[0].Name != "a.example" || got[0].Addr != address(0) {
		t.Errorf("told %v", got)
	}
	if got := fmt.Sprint(h.pinned(8)); got != "[]" {
		t.Errorf("of another device %s", got)
	}
}
