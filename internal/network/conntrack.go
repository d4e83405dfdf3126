package network

import (
	"encoding/binary"
	"fmt"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// Of linux/netfilter/nfnetlink_conntrack.h; package unix does not have them.
const (
	ctMessageDelete = 2  // IPCTNL_MSG_CT_DELETE
	ctaMark         = 8  // CTA_MARK
	ctaMarkMask     = 21 // CTA_MARK_MASK
)

// forgetConnections removes the connections of a slot's guest from the kernel's table, which keeps an
// idle TCP connection for five days. Otherwise the next sandbox with this address would get what the
// other end still sends. The table's rules mark each connection with the slot;
// the kernel deletes by mark without listing all connections to us.
// The connection is the one that is kept: to close one after a transaction takes the kernel 10 ms.
func (f *netfilter) forgetConnections(slot Slot) error {
	attributes, err := mdnetlink.MarshalAttributes([]mdnetlink.Attribute{
		{Type: ctaMark, Data: binary.BigEndian.AppendUint32(nil, markOurs|uint32(slot.Index))},
		{Type: ctaMarkMask, Data: binary.BigEndian.AppendUint32(nil, markOurs|indexMask)},
	})
	if err != nil {
		return err
	}
	message := mdnetlink.Message{
		Header: mdnetlink.Header{
			Type:  unix.NFNL_SUBSYS_CTNETLINK<<8 | ctMessageDelete,
			Flags: mdnetlink.Request | mdnetlink.Acknowledge,
		},
		Data: append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, attributes...), // struct nfgenmsg: of IPv4 and IPv6
	}
	err = f.do(func(conn *mdnetlink.Conn) error {
		_, err := conn.Execute(message)
		return err
	})
	if err != nil {
		return fmt.Errorf("forget connections of %s: %w", slot.Guest.Addr(), err)
	}
	return nil
}

func dialNetfilter(ns *netns.Namespace) (*mdnetlink.Conn, error) {
	conn, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, &mdnetlink.Config{NetNS: ns.FD()})
	if err != nil {
		return nil, fmt.Errorf("open netfilter: %w", err)
	}
	return conn, setDeadline(conn)
}

func setDeadline(conn *mdnetlink.Conn) error {
	return conn.SetDeadline(time.Now().Add(requestTimeout))
}
