package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// element is an entry of one of our sets. What belongs to one sandbox is nothing but elements, so that it is
// made, changed and removed in one transaction, whose cost does not depend on how many sandboxes there are.
type element struct {
	slotOf
	content
}

// slotOf is the place of an element: at most one is there.
type slotOf struct {
	set string // name
	key string // as it lies in the registers
}

// content is what an element holds beside its key.
type content struct {
	data    string        // of a map
	limit   limit         // the element matches by it; zero: everything
	counted bool          // the element counts what it matches
	ttl     time.Duration // after which it is gone; 0: never
	name    string        // of a pin: what leads to the address. nft(8) lists it as a comment
}

// limit is a rate, of packets or of bytes a second. It matches what exceeds it, or what does not.
type limit struct {
	rate  uint64
	bytes bool
	under bool
}

// word is a value of four bytes as the kernel has it in a register.
func word(n uint32) string { return string(binary.NativeEndian.AppendUint32(nil, n)) }

func ip(a netip.Addr) string { return string(a.AsSlice()) }

// ether pads an Ethernet address as a register of 32 bits each does.
func ether(mac net.HardwareAddr) string { return string(mac) + "\x00\x00" }

// expression is the limit as the kernel evaluates it when the element is found: `limit rate [over]`. Of packets a
// tenth of a second's worth may come at once; of bytes the kernel lets a second's worth.
func (l limit) expression() expr.Any {
	e := &expr.Limit{Type: expr.LimitTypePkts, Rate: l.rate, Over: !l.under, Unit: expr.LimitTimeSecond}
	if l.bytes {
		e.Type = expr.LimitTypePktBytes
		return e
	}
	e.Burst = uint32(min(max(l.rate/10, 5), 1<<20))
	return e
}

// encode is the element in a list of elements: NFTA_SET_ELEM_*, linux/netfilter/nf_tables.h.
func (e element) encode(encoder *mdnetlink.AttributeEncoder) error {
	encoder.Nested(unix.NFTA_SET_ELEM_KEY, value(e.key))
	if e.data != "" {
		encoder.Nested(unix.NFTA_SET_ELEM_DATA, value(e.data))
	}
	if e.ttl > 0 {
		encoder.Bytes(unix.NFTA_SET_ELEM_TIMEOUT, binaryutil.BigEndian.PutUint64(uint64(e.ttl.Milliseconds())))
	}
	if e.name != "" {
		encoder.Bytes(unix.NFTA_SET_ELEM_USERDATA, userdata.AppendString(nil, userdata.TypeComment, e.name))
	}
	switch {
	case e.limit.rate > 0:
		return encodeExpression(encoder, e.limit.expression())
	case e.counted:
		return encodeExpression(encoder, &expr.Counter{})
	}
	return nil
}

func encodeExpression(encoder *mdnetlink.AttributeEncoder, e expr.Any) error {
	b, err := expr.Marshal(unix.NFPROTO_INET, e)
	if err == nil {
		encoder.Bytes(unix.NFTA_SET_ELEM_EXPR|unix.NLA_F_NESTED, b)
	}
	return err
}

func value(bytes string) func(*mdnetlink.AttributeEncoder) error {
	return func(encoder *mdnetlink.AttributeEncoder) error {
		encoder.Bytes(unix.NFTA_DATA_VALUE, []byte(bytes))
		return nil
	}
}

// decodeElements reads the elements of an answer of the kernel, with their counters.
func decodeElements(set string, message mdnetlink.Message, each func(element, counter)) error {
	if len(message.Data) < 4 { // struct nfgenmsg
		return fmt.Errorf("list set %s: short message", set)
	}
	decoder, err := mdnetlink.NewAttributeDecoder(message.Data[4:])
	if err != nil {
		return err
	}
	for decoder.Next() {
		if decoder.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		decoder.Nested(func(list *mdnetlink.AttributeDecoder) error {
			for list.Next() {
				e, c := element{slotOf: slotOf{set: set}}, counter{}
				list.Nested(func(d *mdnetlink.AttributeDecoder) error { return e.decode(d, &c) })
				each(e, c)
			}
			return nil
		})
	}
	return decoder.Err()
}

// counter is what an element has counted.
type counter struct{ packets, bytes uint64 }

func (e *element) decode(d *mdnetlink.AttributeDecoder, c *counter) error {
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			d.Nested(readValue(&e.key))
		case unix.NFTA_SET_ELEM_DATA:
			d.Nested(readValue(&e.data))
		case unix.NFTA_SET_ELEM_EXPIRATION: // what is left of its time
			d.ByteOrder = binary.BigEndian
			e.ttl = time.Duration(d.Uint64()) * time.Millisecond
		case unix.NFTA_SET_ELEM_USERDATA:
			e.name, _ = userdata.GetString(d.Bytes(), userdata.TypeComment) // of another tool's element it is none of ours
		case unix.NFTA_SET_ELEM_EXPR:
			d.Nested(e.readExpression(c))
		}
	}
	return nil
}

func readValue(to *string) func(*mdnetlink.AttributeDecoder) error {
	return func(d *mdnetlink.AttributeDecoder) error {
		for d.Next() {
			if d.Type() == unix.NFTA_DATA_VALUE {
				*to = string(d.Bytes())
			}
		}
		return nil
	}
}

// readExpression reads the counter or the limit of an element.
func (e *element) readExpression(c *counter) func(*mdnetlink.AttributeDecoder) error {
	return func(d *mdnetlink.AttributeDecoder) error {
		d.ByteOrder = binary.BigEndian
		name := ""
		for d.Next() {
			switch {
			case d.Type() == unix.NFTA_EXPR_NAME:
				name = d.String()
			case name == "counter":
				e.counted = true
				d.Nested(c.read)
			case name == "limit":
				d.Nested(e.limit.read)
			}
		}
		return nil
	}
}

func (c *counter) read(d *mdnetlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_COUNTER_PACKETS:
			c.packets = d.Uint64()
		case unix.NFTA_COUNTER_BYTES:
			c.bytes = d.Uint64()
		}
	}
	return nil
}

func (l *limit) read(d *mdnetlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_LIMIT_RATE:
			l.rate = d.Uint64()
		case unix.NFTA_LIMIT_TYPE:
			l.bytes = d.Uint32() == unix.NFT_LIMIT_PKT_BYTES
		case unix.NFTA_LIMIT_FLAGS:
			l.under = d.Uint32()&unix.NFT_LIMIT_F_INV == 0
		}
	}
	return nil
}
