package network

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// graveyard deletes devices that are out of use. The kernel holds up everybody who works on devices while it waits for its
// own readers, some 20 ms, for one as for many; so they are put into a group of devices, and deleted together.
type graveyard struct {
	of      *Network
	links   map[int]*nl.SocketHandle // rtnetlink(7), so that nobody waits for the kernel's answer
	waiting atomic.Int64
	first   chan struct{} // one waits
	enough  chan struct{} // a batch waits
}

// goneTAP begins the names of devices that wait for their deletion.
const goneTAP = anyTAP + "gone-"

// goneGroup is the group that they are in: any number that others do not use.
const goneGroup = 0x57524e4e

// A batch is deleted when it is this large, or when its first device has waited for so long.
const (
	batchSize  = 32
	batchDelay = 100 * time.Millisecond
)

func newGraveyard(of *Network) *graveyard {
	return &graveyard{of: of, first: make(chan struct{}, 1), enough: make(chan struct{}, 1)}
}

// run deletes what is buried until ctx ends.
func (g *graveyard) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.first:
		}
		select {
		case <-ctx.Done():
			return
		case <-g.enough:
		case <-time.After(batchDelay):
		}
		if err := g.empty(); err != nil {
			g.of.log.WarnContext(ctx, "network devices could not be deleted; the next removal or start of the agent tries again", "error", err)
		}
	}
}

// bury gives a device a name that nobody looks for, and leaves it to be deleted.
func (n *Network) bury(link netlink.Link) error {
	name := goneTAP + strconv.FormatInt(int64(link.Attrs().Index), 36)
	err := n.host.rename(link, name)
	if errors.Is(err, unix.EBUSY) { // kernels before 6.2 rename only what is turned off, which takes them longer
		if err := n.route.LinkSetDown(link); err != nil {
			return fmt.Errorf("turn off: %w", err)
		}
		err = n.host.rename(link, name)
	}
	if err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	if n.gone.waiting.Add(1) >= batchSize {
		notify(n.gone.enough)
	}
	notify(n.gone.first)
	return nil
}

// retire is `ip link set dev link name name group goneGroup`, in one request.
func (n *Network) retire(link netlink.Link, name string) error {
	request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	request.Sockets = n.links
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(link.Attrs().Index)
	request.AddData(message)
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	request.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(goneGroup)))
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// empty deletes all that are buried: `ip link delete group goneGroup`.
func (g *graveyard) empty() error {
	if g.waiting.Swap(0) == 0 {
		return nil
	}
	request := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	request.Sockets = g.links
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(goneGroup)))
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete network devices: %w", err)
	}
	return nil
}
