package network

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// perDevice are the sets whose elements belong to a device and are made and removed by us.
func perDevice(can abilities) []string {
	list := []string{guests, gateways, marks, current, flags, allowed, denied, limits, refusals}
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
}

// set makes the kernel hold exactly these elements for a device, in one transaction. Where somebody else has changed
// the sets, it looks again and repairs them.
func (h *held) set(device uint32, want []element) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.change(device, want)
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EBUSY) {
		return err
	}
	if err := h.read(); err != nil {
		return err
	}
	return h.change(device, want)
}

func (h *held) change(device uint32, want []element) error {
	wanted := make(map[slotOf]content, len(want))
	for _, e := range want {
		wanted[e.slotOf] = e.content
	}
	remove, add := difference(h.elements[device], wanted, want)
	if err := h.kernel.commit(remove, add); err != nil {
		return err
	}
	if len(want) == 0 {
		delete(h.elements, device)
		return nil
	}
	h.elements[device] = wanted
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

// read learns what the kernel holds.
func (h *held) read() error {
	h.elements = map[uint32]map[slotOf]content{}
	for _, set := range h.sets {
		err := h.kernel.list(set, func(e element, _ counter) {
			if len(e.key) < 4 {
				return
			}
			device := binary.NativeEndian.Uint32([]byte(e.key))
			if h.elements[device] == nil {
				h.elements[device] = map[slotOf]content{}
			}
			h.elements[device][e.slotOf] = e.content
		})
		if err != nil {
			return fmt.Errorf("list set %s: %w", set, err)
		}
	}
	return nil
}

// keep removes what belongs to devices that are not to be kept.
func (h *held) keep(devices map[uint32]bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.read(); err != nil {
		return err
	}
	for device := range h.elements {
		if !devices[device] {
			if err := h.change(device, nil); err != nil {
				return fmt.Errorf("remove what device %d left: %w", device, err)
			}
		}
	}
	return nil
}

func sortBySet(list []element) {
	slices.SortFunc(list, func(a, b element) int { return cmp.Compare(a.set, b.set) })
}
