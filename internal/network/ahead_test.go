package network_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
)

// TestAhead: through a TAP whose sandbox is not known yet nothing passes; attached to one it is that one's TAP like any other, for the VMM that had it open before.
func TestAhead(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	slot, err := n.Reserve(t.Context())
	w.must(err)
	name, err := n.Ahead(t.Context(), slot)
	w.must(err)
	if again, err := n.Ahead(t.Context(), slot); again != name || err != nil {
		t.Errorf("a second time it is %s, %v, not %s", again, err, name)
	}
	tap := w.openTAP(name)
	if _, err := tap.Write(append(slices.Clone(vnetHeader), make([]byte, 60)...)); !errors.Is(err, unix.EIO) { // of a device that is down: drivers/net/tun.c
		t.Errorf("a guest sends before it has a network: %v", err)
	}
	w.wantTAPs()
	link, err := n.Attach(t.Context(), alice, slot, network.DefaultPolicy)
	w.must(err)
	w.wantTAPs(alice)
	g := w.bootOn(tap, link)
	peer := w.listen(w.peer, peerAddress+":7000")
	g.say(peerAddress+":7000", "hello")
	w.wantDatagram(peer, "hello")
	w.must(n.Forsake(t.Context(), slot)) // which has nothing to take away
	w.wantTAPs(alice)
}

// TestForsake: a TAP that no sandbox got is removed, also one that an earlier process made, and the slot gets another.
func TestForsake(t *testing.T) {
	w := newWorld(t)
	n, err := w.try(network.Config{})
	w.must(err)
	slot, err := n.Reserve(t.Context())
	w.must(err)
	name, err := n.Ahead(t.Context(), slot)
	w.must(err)
	w.must(n.Close(context.WithoutCancel(t.Context()), false))
	n = w.open("")
	if err := n.Forsake(t.Context(), slot); err != nil || !slices.Contains(w.devices(), name) {
		t.Errorf("of a slot that is not held it took %s away, or failed: %v", name, err)
	}
	if _, err := n.Ahead(t.Context(), slot); models.CodeOf(err) != models.Precondition {
		t.Errorf("of a slot that is not held: %v", err)
	}
	slot, err = n.Take(slot.Index)
	w.must(err)
	w.must(n.Forsake(t.Context(), slot))
	if slices.Contains(w.devices(), name) {
		t.Errorf("%s is still there", name)
	}
	_, err = n.Attach(t.Context(), alice, slot, network.DefaultPolicy)
	w.must(err)
	w.wantTAPs(alice)
}
