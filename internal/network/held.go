package network

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// perDevice are the sets whose elements belong to a device and are made and removed by us.
func perDevice(can abilities) []string {
	list := []string{marks, guests, gateways, current, flags, allowed, denied, limits, refusals, pins,
		ipv6Devices, guestsIPv6, gatewaysIPv6, allowedIPv6, deniedIPv6, pinsIPv6}
	if can.arp {
		list = append(list, arpGuests)
	}
	return list
}

// held is what the kernel holds for each device, as far as we know.
type held struct {
	kernel *netfilter
	sets   []string

	mu       sync.Mutex
	elements map[uint32]map[slotOf]content // by index of the device
	pins     map[uint32]map[slotOf]pinLife
}

// pinLife is until when an address may be reached, and the name that leads to it for so long.
type pinLife struct {
	until time.Time
	name  string
}

// repairs is how often set looks again before it gives up.
const repairs = 3

// set makes the kernel hold exactly these elements for a device, in one transaction, and its pins only if they are to be
// kept. Where the sets are not what we know of them it looks again and repairs them: somebody else has changed
// them, or a pin has just come to its end.
func (h *held) set(device uint32, want []element, keepPins bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.repaired(func() error { return h.change(device, want, keepPins, nil) })
}

// replace is set with other pins in the place of those that there are.
func (h *held) replace(device uint32, want, pins []element) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.repaired(func() error { return h.change(device, want, false, pins) })
}

// repaired calls change again when what is known of the sets has turned out to be wrong.
func (h *held) repaired(change func() error) error {
	err := change()
	for range repairs {
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EBUSY) {
			break
		}
		if err := h.read(); err != nil {
			return err
		}
		err = change()
	}
	return err
}

// change is set and replace; the pins must have keys that no pin has.
func (h *held) change(device uint32, want []element, keepPins bool, pins []element) error {
	wanted := make(map[slotOf]content, len(want))
	for _, e := range want {
		wanted[e.slotOf] = e.content
	}
	remove, add := difference(h.elements[device], wanted, want)
	if !keepPins {
		remove = append(remove, h.pinsOf(device)...)
	}
	until := time.Now()
	if err := h.kernel.commit(remove, append(add, pins...)); err != nil {
		return err
	}
	if !keepPins {
		delete(h.pins, device)
	}
	for _, p := range pins {
		put(h.pins, device, p.slotOf, pinLife{until.Add(p.ttl), p.name})
	}
	if len(want) == 0 {
		delete(h.elements, device)
		return nil
	}
	h.elements[device] = wanted
	return nil
}

// pinGrace is how much later than we think the kernel may find that a pin has come to its end.
const pinGrace = 100 * time.Millisecond

// pinsOf are the pins that a device has. The caller holds mu.
func (h *held) pinsOf(device uint32) (list []element) {
	now := time.Now()
	for at, p := range h.pins[device] {
		if now.Before(p.until.Add(pinGrace)) {
			list = append(list, element{slotOf: at})
		} else {
			delete(h.pins[device], at)
		}
	}
	sortBySet(list)
	return list
}

// pinned are the pins of a device that have a name and are not about to end.
func (h *held) pinned(device uint32) (list []Pinned) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for at, p := range h.pins[device] {
		addr, ok := netip.AddrFromSlice([]byte(at.key[4:])) // behind the mark
		if ok && p.name != "" && time.Now().Before(p.until) {
			list = append(list, Pinned{p.name, addr, p.until})
		}
	}
	return list
}

// pin lets a device reach addresses for a time, as long as it has room. An address that is pinned for
// longer already stays so.
func (h *held) pin(device uint32, list []element) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.pinsOf(device))+len(list) > maxPins {
		return models.Errorf(models.Exhausted, "the sandbox has %d addresses allowed by name already", len(h.pins[device]))
	}
	for _, p := range list {
		until := time.Now().Add(p.ttl)
		if until.Before(h.pins[device][p.slotOf].until) {
			continue
		}
		one := []element{p}
		err := h.kernel.commit(one, one) // it is there, or it is not
		if errors.Is(err, unix.ENOENT) {
			err = h.kernel.commit(nil, one)
		}
		if err != nil {
			return err
		}
		put(h.pins, device, p.slotOf, pinLife{until, p.name})
	}
	return nil
}

// difference says what to remove and what to add, in the order of want.
func difference(have, wanted map[slotOf]content, want []element) (remove, add []element) {
	for at, c := range have {
		if other, ok := wanted[at]; !ok || other != c {
			remove = append(remove, element{slotOf: at})
		}
	}
	sortBySet(remove)
	for _, e := range want {
		if c, ok := have[e.slotOf]; !ok || c != e.content {
			add = append(add, e)
		}
	}
	return remove, add
}

// mark returns the mark that a device's connections get, 0 for one that has no policy.
func (h *held) mark(device uint32) uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.elements[device][slotOf{marks, word(device)}]
	if !ok {
		return 0
	}
	return binary.NativeEndian.Uint32([]byte(c.data))
}

// byMark are the sets whose keys begin with the mark of a policy; those of the others begin with a device.
var byMark = map[string]bool{flags: true, allowed: true, denied: true, pins: true, allowedIPv6: true, deniedIPv6: true, pinsIPv6: true}

// read learns what the kernel holds. What belongs to a mark that no device has is listed under device 0, which is none.
func (h *held) read() error {
	h.elements, h.pins = map[uint32]map[slotOf]content{}, map[uint32]map[slotOf]pinLife{}
	devices, now := map[uint32]uint32{}, time.Now()
	note := func(e element, _ counter) {
		device := beginning(e.key)
		switch {
		case e.set == marks:
			devices[beginning(e.data)] = device
		case byMark[e.set]:
			device = devices[device]
		}
		if e.set == pins || e.set == pinsIPv6 {
			put(h.pins, device, e.slotOf, pinLife{now.Add(e.ttl), e.name})
			return
		}
		put(h.elements, device, e.slotOf, e.content)
	}
	for _, set := range h.sets { // marks is the first
		if err := h.kernel.list(set, note); err != nil {
			return fmt.Errorf("list set %s: %w", set, err)
		}
	}
	return nil
}

func put[K comparable, V any](all map[uint32]map[K]V, device uint32, key K, value V) {
	if all[device] == nil {
		all[device] = map[K]V{}
	}
	all[device][key] = value
}

// beginning is the device or the mark that a key or a value begins with.
func beginning(key string) uint32 { return binary.NativeEndian.Uint32([]byte(key[:4])) }

// keep removes what belongs to devices that are not to be kept.
func (h *held) keep(devices map[uint32]bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.read(); err != nil {
		return err
	}
	for device := range h.pins { // who has pins has elements, too, unless somebody has tampered with them
		put(h.elements, device, slotOf{}, content{})
		delete(h.elements[device], slotOf{})
	}
	for device := range h.elements {
		if !devices[device] {
			if err := h.change(device, nil, false, nil); err != nil {
				return fmt.Errorf("remove what device %d left: %w", device, err)
			}
		}
	}
	return nil
}

func sortBySet(list []element) {
	slices.SortFunc(list, func(a, b element) int { return cmp.Compare(a.set, b.set) })
}
