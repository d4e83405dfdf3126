package network

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nfnetlink_log.h; package unix does not have them.
const (
	ulogMessagePacket = 0 // NFULNL_MSG_PACKET
	ulogMessageConfig = 1 // NFULNL_MSG_CONFIG

	ulogConfigCommand = 1 // NFULA_CFG_CMD
	ulogConfigMode    = 2 // NFULA_CFG_MODE

	ulogBind       = 1 // NFULNL_CFG_CMD_BIND
	ulogCopyPacket = 2 // NFULNL_COPY_PACKET

	ulogDevice  = 4  // NFULA_IFINDEX_INDEV
	ulogPayload = 9  // NFULA_PAYLOAD
	ulogPrefix  = 10 // NFULA_PREFIX
)

// told are the refusals that wait to be read.
type told struct{ out chan Refusal }

// maxRefusals is how many refusals wait; what comes while they do is counted with its kind, or lost.
const maxRefusals = 1024

// refusalWindow is how long refusals of one kind are counted before they are told.
const refusalWindow = 500 * time.Millisecond

// Refusals are what the rules dropped of what guests sent: a sample, of at most 20 packets a second of a sandbox, and of
// equal ones a single Refusal with their number. Nobody need read it: what finds no room is lost. It is closed by Close,
// and at once where the kernel cannot tell (see Info.Warnings; or the log, where another program has the nflog group).
func (n *Network) Refusals() <-chan Refusal { return n.told.out }

// watchRefusals asks the kernel for the samples that the rules take.
func (n *Network) watchRefusals(ctx context.Context) error {
	n.told.out = make(chan Refusal, maxRefusals)
	if !n.can.log {
		close(n.told.out)
		return nil
	}
	conn, err := n.listenLog()
	if err != nil { // another program may have the group
		n.log.WarnContext(ctx, "refused packets are counted, but not told", "error", err)
		close(n.told.out)
		return nil
	}
	samples := make(chan Refusal, maxRefusals)
	n.background.Go(func() {
		defer close(samples)
		receive(conn, func(messages []mdnetlink.Message) { n.onSamples(messages, samples) })
	})
	n.background.Go(func() {
		defer close(n.told.out)
		gather(samples, n.told.out)
	})
	n.background.Go(func() {
		<-ctx.Done()
		conn.Close()
	})
	return nil
}

// listenLog is a connection that receives what is logged to nflogGroup: struct nfulnl_msg_config_*.
func (n *Network) listenLog() (*mdnetlink.Conn, error) {
	conn, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, &mdnetlink.Config{NetNS: n.ns.FD()})
	if err != nil {
		return nil, err
	}
	mode := append(binary.BigEndian.AppendUint32(nil, sampleBytes), ulogCopyPacket, 0)
	for _, attribute := range []mdnetlink.Attribute{{Type: ulogConfigCommand, Data: []byte{ulogBind}}, {Type: ulogConfigMode, Data: mode}} {
		data, err := mdnetlink.MarshalAttributes([]mdnetlink.Attribute{attribute})
		if err == nil {
			_, err = conn.Execute(mdnetlink.Message{
				Header: mdnetlink.Header{Type: unix.NFNL_SUBSYS_ULOG<<8 | ulogMessageConfig, Flags: mdnetlink.Request | mdnetlink.Acknowledge},
				Data:   append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, nflogGroup >> 8, nflogGroup & 0xff}, data...), // struct nfgenmsg
			})
		}
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

// onSamples passes on what the kernel tells, as far as there is room.
func (n *Network) onSamples(messages []mdnetlink.Message, to chan<- Refusal) {
	for _, m := range messages {
		if m.Header.Type != unix.NFNL_SUBSYS_ULOG<<8|ulogMessagePacket || len(m.Data) < 4 {
			continue
		}
		refusal, device, err := parseSample(m.Data[4:])
		sandbox, known := n.attached.on(device)
		if err != nil || !known {
			continue
		}
		refusal.Sandbox, refusal.At, refusal.Count = sandbox, time.Now(), 1
		select {
		case to <- refusal:
		default:
		}
	}
}

// parseSample reads the attributes of a logged packet.
func parseSample(b []byte) (r Refusal, device uint32, err error) {
	attributes, err := mdnetlink.UnmarshalAttributes(b)
	if err != nil {
		return r, 0, err
	}
	for _, a := range attributes {
		switch {
		case a.Type == ulogDevice && len(a.Data) == 4:
			device = binary.BigEndian.Uint32(a.Data)
		case a.Type == ulogPrefix && len(a.Data) > 0:
			r.Rule = string(a.Data[:len(a.Data)-1]) // it ends with a zero
		case a.Type == ulogPayload:
			r.Protocol, r.To = parsePacket(a.Data)
		}
	}
	return r, device, nil
}

// parsePacket reads what an IPv4 or IPv6 packet is and where it goes: RFC 791, RFC 8200. The guest may have
// sent anything.
func parsePacket(b []byte) (protocol string, to netip.AddrPort) {
	var number byte
	var payload []byte
	var target netip.Addr
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && b[0]&0x0f >= 5:
		number, target = b[9], netip.AddrFrom4([4]byte(b[16:20]))
		payload = b[min(int(b[0]&0x0f)*4, len(b)):]
		if b[6]&0x1f != 0 || b[7] != 0 { // a later fragment has no ports
			payload = nil
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		number, target, payload = b[6], netip.AddrFrom16([16]byte(b[24:40])), b[40:]
		if number == fragmented && len(payload) >= 8 { // what it is a fragment of: RFC 8200, 4.5
			later := payload[2] != 0 || payload[3]&0xf8 != 0
			if number, payload = payload[0], payload[8:]; later {
				payload = nil
			}
		}
	default:
		return "unknown", to
	}
	name, ports := protocolName(number)
	if !ports || len(payload) < 4 {
		return name, netip.AddrPortFrom(target, 0)
	}
	return name, netip.AddrPortFrom(target, binary.BigEndian.Uint16(payload[2:]))
}

func protocolName(number byte) (name string, ports bool) {
	switch number {
	case tcp:
		return "tcp", true
	case udp:
		return "udp", true
	case icmp:
		return "icmp", false
	case icmpv6:
		return "icmpv6", false
	}
	return strconv.Itoa(int(number)), false
}

// gather adds up equal samples for a while and passes them on, until there are no more. Of no more kinds than
// maxRefusals at the same time.
func gather(samples <-chan Refusal, out chan<- Refusal) {
	window := time.NewTicker(refusalWindow)
	defer window.Stop()
	waiting := map[Refusal]Refusal{} // by what makes them equal
	flush := func() {
		for kind, r := range waiting {
			select {
			case out <- r:
			default:
			}
			delete(waiting, kind)
		}
	}
	for {
		select {
		case r, ok := <-samples:
			if !ok {
				flush()
				return
			}
			kind := r
			kind.At, kind.Count = time.Time{}, 0
			if earlier, found := waiting[kind]; found {
				r.At, r.Count = earlier.At, earlier.Count+1
			} else if len(waiting) >= maxRefusals {
				continue
			}
			waiting[kind] = r
		case <-window.C:
			flush()
		}
	}
}
