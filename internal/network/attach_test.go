package network_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
)

func TestAttachIsIdempotentAndDetachToo(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	slot, link := w.attach(n, alice)
	want := network.Link{TAP: "tap-sb-0000a11c", MAC: network.GuestMAC(alice), Guest: slot.Guest, Gateway: slot.Gateway, Index: slot.Index}
	if diff := cmp.Diff(want, link, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	w.holdTAP(link.TAP) // the VMM has it open
	again, err := n.Attach(t.Context(), alice, slot, network.DefaultPolicy)
	if err != nil || again.TAP != link.TAP {
		t.Errorf("attached again: %+v, %v", again, err)
	}
	w.wantTAPs(alice)
	for range 2 {
		w.must(n.Detach(t.Context(), alice))
		w.wantTAPs()
	}
}

// TestDetachTakesAllThatBelongsToASandbox out of the table, while its VMM has the TAP open, and nothing of another one, whose connections go on.
func TestDetachTakesAllThatBelongsToASandbox(t *testing.T) {
	w := newWorld(t)
	w.giveIPv6()
	n, err := w.try(network.Config{Pool: -1})
	w.must(err)
	defer func() { w.must(n.Close(t.Context(), true)) }()
	other := w.bootWith(n, bob, openly)
	c := w.converse(n, other, netip.MustParseAddrPort(onPort(peerAddress)))
	before := w.policies()
	w.bootIPv6(n, network.Policy{IPv6: true, Names: true, Allow: prefixes("192.0.2.0/24", "2001:db8::/32"), Deny: prefixes("0.0.0.0/0", "::/0")})
	w.must(n.Pin(t.Context(), alice, "a.example", []netip.Addr{netip.MustParseAddr(farAddress), netip.MustParseAddr(farIPv6)}, time.Hour))
	w.must(n.Detach(t.Context(), alice))
	if now := w.policies(); now != before {
		t.Errorf("the table is now:\n%s\nbefore:\n%s", now, before)
	}
	w.wantExact(n)
	c.answer("still there?")
	other.wantAnswer("still there?", peerAddress)
}

func TestAttachFinishesWhatWasCutShort(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	slot, link := w.attach(n, alice)
	w.onHost(func() error { // as if killed before the device was made whole and turned on
		device, err := netlink.LinkByName(link.TAP)
		if err != nil {
			return err
		}
		addresses, err := netlink.AddrList(device, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrDel(device, &addresses[0]), netlink.LinkSetDown(device))
	})
	_, err := n.Attach(t.Context(), alice, slot, network.DefaultPolicy)
	w.must(err)
	w.boot(link)
}

func TestAttachRefuses(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	slot, _ := w.attach(n, alice)
	_, err := n.Attach(t.Context(), bob, slot, network.DefaultPolicy)
	wantCode(t, err, models.Conflict, "belongs to sandbox sb-0000a11c")
	other, err := n.Reserve(t.Context())
	w.must(err)
	_, err = n.Attach(t.Context(), alice, other, network.DefaultPolicy)
	wantCode(t, err, models.Conflict, "has address")
	_, err = n.Attach(t.Context(), bob, network.Slot{Index: 5}, network.DefaultPolicy)
	wantCode(t, err, models.Precondition, "not reserved")
	n.Release(other)
	_, err = n.Attach(t.Context(), bob, other, network.DefaultPolicy)
	wantCode(t, err, models.Precondition, "not reserved")
	for _, bad := range []id.Sandbox{"", "sb-", "eth0", "sb-0000000g"} {
		_, err := n.Attach(t.Context(), bad, slot, network.DefaultPolicy)
		wantCode(t, err, models.Invalid, "sandbox id")
		wantCode(t, n.Detach(t.Context(), bad), models.Invalid, "sandbox id")
	}
	w.wantTAPs(alice)
}

// A device that somebody else made under a TAP's name is neither used nor removed.
func TestForeignDevicesAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	foreign := []string{network.TAPName(bob), "tap-sb-x", "tap-sb-0000000g"}
	for _, name := range foreign {
		w.onHost(func() error { return addPair(name, "end-"+name[4:]) })
	}
	slot, err := n.Reserve(t.Context())
	w.must(err)
	_, err = n.Attach(t.Context(), bob, slot, network.DefaultPolicy)
	wantCode(t, err, models.Conflict, "no TAP")
	wantCode(t, n.Detach(t.Context(), bob), models.Conflict, "no TAP")
	if swept, err := n.Sweep(t.Context(), nil); err != nil || len(swept) > 0 {
		t.Errorf("swept %q, %v", swept, err)
	}
	w.must(n.Close(t.Context(), true))
	left := w.devices()
	for _, name := range foreign {
		if !slices.Contains(left, name) {
			t.Errorf("%s is gone", name)
		}
	}
}

// An attach that is cancelled undoes what it has done.
func TestAttachCancelledMidway(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	slot, err := n.Reserve(t.Context())
	w.must(err)
	for checks := range 2 {
		_, err := n.Attach(&endsAfter{Context: t.Context(), checks: checks}, alice, slot, network.DefaultPolicy)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after %d checks: %v, want context.Canceled", checks, err)
		}
		w.wantTAPs()
		w.wantExact(n)
		_, err = n.Counters(alice)
		wantCode(t, err, models.NotFound, "sb-0000a11c")
	}
	_, err = n.Attach(t.Context(), alice, slot, network.DefaultPolicy)
	w.must(err)
}

// endsAfter is a context that is cancelled when it has been asked a number of times.
type endsAfter struct {
	context.Context
	checks int
}

func (c *endsAfter) Err() error {
	if c.checks--; c.checks < 0 {
		return context.Canceled
	}
	return nil
}

// The agent's restart: nothing that a running sandbox needs is interrupted.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	first := w.open("10.9.0.0/29") // two slots
	slot, link := w.attach(first, alice)
	g := w.boot(link)
	peer := w.listen(w.peer, peerAddress+":7000")
	g.say(peerAddress+":7000", "before")
	before := w.wantDatagram(peer, "before")
	w.must(first.Close(t.Context(), false))
	g.say(peerAddress+":7000", "without an agent")
	w.wantDatagram(peer, "without an agent")

	second := w.open("10.9.0.0/29")
	free, err := second.Reserve(t.Context()) // before Take: the slot in use is found in the namespace
	if err != nil || free.Index == slot.Index {
		t.Errorf("reserved %+v, %v; want the slot that is free", free, err)
	}
	_, err = second.Reserve(t.Context())
	wantCode(t, err, models.Exhausted, "2 network addresses")
	taken, err := second.Take(slot.Index)
	w.must(err)
	again, err := second.Attach(t.Context(), alice, taken, network.DefaultPolicy)
	if err != nil || again.Guest != link.Guest {
		t.Errorf("adopted as %+v, %v", again, err)
	}
	g.say(peerAddress+":7000", "after")
	if after := w.wantDatagram(peer, "after"); after != before {
		t.Errorf("the connection moved from %s to %s", before, after)
	}
}

func TestSweepKeepsWhatIsToBeKept(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	w.attach(n, alice)
	w.attach(n, bob)
	w.must(n.Close(t.Context(), false))
	n = w.open("")
	swept, err := n.Sweep(t.Context(), map[id.Sandbox]bool{bob: true})
	if diff := cmp.Diff([]id.Sandbox{alice}, swept); err != nil || diff != "" {
		t.Error(err, diff)
	}
	w.wantTAPs(bob)
}

func TestCloseIsFinal(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	slot, _ := w.attach(n, alice)
	for range 2 {
		w.must(n.Close(t.Context(), false))
	}
	_, err := n.Attach(t.Context(), alice, slot, network.DefaultPolicy)
	wantCode(t, err, models.Unavailable, "closed")
	wantCode(t, n.Detach(t.Context(), alice), models.Unavailable, "closed")
	w.wantTAPs(alice)
}

func TestManySandboxesLeaveNothing(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	full := func() bool { return n.Ready() == network.DefaultPool }
	w.eventually("the pool is full", full)
	routes := w.routes()
	start := time.Now()
	const cycles = 500
	for i := range cycles {
		sandbox := id.Sandbox(fmt.Sprintf("sb-%08x", i))
		slot, _ := w.attach(n, sandbox)
		w.must(n.Detach(t.Context(), sandbox))
		n.Release(slot)
	}
	t.Logf("%d cycles, %s each", cycles, time.Since(start)/cycles)
	w.eventually("only the pool is left", func() bool {
		return full() && !slices.ContainsFunc(w.devices(), func(name string) bool {
			return strings.HasPrefix(name, "tap-") && !strings.HasPrefix(name, "tap-free-")
		})
	})
	if got := w.routes(); got != routes {
		t.Errorf("%d routes, before %d", got, routes)
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	n := w.open("10.9.0.0/24") // 64 slots
	var all sync.WaitGroup
	for worker := range 32 {
		all.Go(func() {
			for round := range 5 {
				if err := oneLife(t.Context(), n, id.Sandbox(fmt.Sprintf("sb-%04x%04x", worker, round))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 8 { // and some who all mean the same sandbox
		all.Go(func() {
			slot, err := n.Reserve(t.Context())
			if err != nil {
				t.Error(err)
			}
			if _, err := n.Attach(t.Context(), alice, slot, network.DefaultPolicy); err != nil && models.CodeOf(err) != models.Conflict {
				t.Error(err)
			}
			if err := n.Detach(t.Context(), alice); err != nil {
				t.Error(err)
			}
			n.Release(slot)
		})
	}
	all.Wait()
	w.wantTAPs()
}

func oneLife(ctx context.Context, n *network.Network, sandbox id.Sandbox) error {
	slot, err := n.Reserve(ctx)
	if err != nil {
		return err
	}
	defer n.Release(slot)
	if _, err := n.Attach(ctx, sandbox, slot, network.DefaultPolicy); err != nil {
		return err
	}
	return n.Detach(ctx, sandbox)
}

func BenchmarkAttach(b *testing.B) {
	w := newWorld(b)
	n := w.open("")
	for b.Loop() {
		slot, _ := w.attach(n, alice)
		b.StopTimer()
		w.must(n.Detach(b.Context(), alice))
		n.Release(slot)
		b.StartTimer()
	}
}

func BenchmarkDetach(b *testing.B) {
	w := newWorld(b)
	n := w.open("")
	for b.Loop() {
		b.StopTimer()
		slot, _ := w.attach(n, alice)
		b.StartTimer()
		w.must(n.Detach(b.Context(), alice))
		b.StopTimer()
		n.Release(slot)
		b.StartTimer()
	}
}

// BenchmarkAttachBesideMany shows that the cost does not grow with the number of sandboxes.
func BenchmarkAttachBesideMany(b *testing.B) {
	w := newWorld(b)
	n := w.open("")
	for i := range 1000 {
		w.attach(n, id.Sandbox(fmt.Sprintf("sb-%08x", i+1)))
	}
	for b.Loop() {
		if err := oneLife(b.Context(), n, "sb-ffffffff"); err != nil {
			b.Fatal(err)
		}
	}
}

// What QEMU and Firecracker ask for when they open a TAP is what was made.
func TestTAPHasOneQueueAndVirtioHeaders(t *testing.T) {
	w := newWorld(t)
	_, link := w.attach(w.open(""), alice)
	w.onHost(func() error {
		device, err := netlink.LinkByName(link.TAP)
		if err != nil {
			return err
		}
		tap, ok := device.(*netlink.Tuntap)
		if !ok || tap.Mode != netlink.TUNTAP_MODE_TAP || tap.NonPersist || tap.Flags&netlink.TUNTAP_VNET_HDR == 0 || tap.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 {
			t.Errorf("device = %+v", device)
		}
		if device.Attrs().HardwareAddr.String() != "02:57:52:45:4e:4e" {
			t.Errorf("gateway's hardware address = %s", device.Attrs().HardwareAddr)
		}
		mode, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link.TAP + "/addr_gen_mode")
		if errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
			return nil
		}
		if strings.TrimSpace(string(mode)) != "1" {
			t.Errorf("the host makes itself IPv6 addresses: mode %s", mode)
		}
		return err
	})
}
