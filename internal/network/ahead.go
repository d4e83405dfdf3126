package network

import (
	"context"
	"fmt"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Ahead makes the TAP of a slot whose sandbox is not known yet, and returns its name. The TAP is down, and has no policy: nothing
// passes. A VMM may have it open. Attach makes it the sandbox's, under that one's name; Forsake takes it away instead. It is Precondition when the slot is not held.
func (n *Network) Ahead(ctx context.Context, slot Slot) (tap string, err error) {
	end, err := n.begin(ctx)
	if err != nil {
		return "", err
	}
	defer end()
	if !n.slots.holds(slot) {
		return "", models.Errorf(models.Precondition, "network slot %d is not reserved", slot.Index)
	}
	device, err := n.pool.take(ctx, slot)
	if err != nil {
		return "", fmt.Errorf("make %s: %w", poolName(slot.Index), err)
	}
	n.pool.keep(slot.Index, device)
	return poolName(slot.Index), nil
}

// Forsake removes the TAP of a slot that Ahead made and Attach did not use, also one that an earlier process left: a VMM may still have it open. It succeeds
// when there is none. The slot is still held afterwards.
func (n *Network) Forsake(ctx context.Context, slot Slot) error {
	end, err := n.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if !n.slots.holds(slot) {
		return nil
	}
	if device, _ := n.pool.pick(slot.Index); device == 0 {
		return nil
	}
	if err := n.discard(poolName(slot.Index)); err != nil {
		return fmt.Errorf("remove %s: %w", poolName(slot.Index), err)
	}
	return nil
}

// keep puts the device of a slot that is held where Attach looks for it.
func (p *pool) keep(slot, device int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready[slot] = device
}

func (s *slots) holds(slot Slot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held(slot)
}
