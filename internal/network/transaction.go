package network

import (
	"fmt"
	"sync"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// maxElements is how many elements go into one message: an attribute holds 64 KiB.
const maxElements = 256

// netfilter is a connection to the kernel's nf_tables that is kept, since entering the namespace costs more than a
// transaction does. What it does is serialised, as the kernel does anyway.
type netfilter struct {
	ns *netns.Namespace

	mu   sync.Mutex
	conn *mdnetlink.Conn // nil until used, and after an error
}

// commit deletes and adds elements in one transaction. An element may be in both lists: it is replaced.
func (f *netfilter) commit(remove, add []element) error {
	if len(remove)+len(add) == 0 {
		return nil
	}
	messages, err := elementMessages(unix.NFT_MSG_DELSETELEM, 0, remove)
	if err != nil {
		return err
	}
	added, err := elementMessages(unix.NFT_MSG_NEWSETELEM, mdnetlink.Create, add)
	if err != nil {
		return err
	}
	messages = append(messages, added...)
	messages[len(messages)-1].Header.Flags |= mdnetlink.Acknowledge
	batch := append([]mdnetlink.Message{batchMark(unix.NFNL_MSG_BATCH_BEGIN)}, messages...)
	return f.send(append(batch, batchMark(unix.NFNL_MSG_BATCH_END)))
}

// send sends a batch and waits for its end. The last message alone asks to be acknowledged, which the kernel does
// after it has committed; errors it tells unasked. After an error others may follow, so the connection is given up.
func (f *netfilter) send(batch []mdnetlink.Message) error {
	return f.do(func(conn *mdnetlink.Conn) error {
		if _, err := conn.SendMessages(batch); err != nil {
			return err
		}
		_, err := conn.Receive()
		return err
	})
}

// do calls f with the connection.
func (f *netfilter) do(use func(*mdnetlink.Conn) error) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == nil {
		if f.conn, err = dialNetfilter(f.ns); err != nil {
			f.conn = nil
			return err
		}
		if err := makeRoom(f.conn); err != nil {
			return fmt.Errorf("make room for transactions: %w", err)
		}
	}
	if err = setDeadline(f.conn); err == nil {
		err = use(f.conn)
	}
	if err != nil {
		_ = f.conn.Close() // it has failed already
		f.conn = nil
	}
	return err
}

// buffer holds the largest transaction: a policy of maxPrefixes.
const buffer = 4 << 20

func (f *netfilter) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == nil {
		return nil
	}
	err := f.conn.Close()
	f.conn = nil
	return err
}

// list calls each with every element of a set.
func (f *netfilter) list(set string, each func(element, counter)) error {
	message, err := elementMessage(unix.NFT_MSG_GETSETELEM, set, nil)
	if err != nil {
		return err
	}
	message.Header.Flags |= mdnetlink.Dump
	return f.do(func(conn *mdnetlink.Conn) error {
		answers, err := conn.Execute(message)
		for _, answer := range answers {
			if err == nil {
				err = decodeElements(set, answer, each)
			}
		}
		return err
	})
}

// get calls each with the given elements as the kernel has them; one that is missing is an error.
func (f *netfilter) get(set string, elements []element, each func(element, counter)) error {
	message, err := elementMessage(unix.NFT_MSG_GETSETELEM, set, elements)
	if err != nil {
		return err
	}
	message.Header.Flags |= mdnetlink.Acknowledge
	return f.do(func(conn *mdnetlink.Conn) error {
		if _, err := conn.Send(message); err != nil {
			return err
		}
		for { // a message for each element, then the acknowledgement
			answers, err := conn.Receive()
			if err != nil {
				return err
			}
			for _, answer := range answers {
				if answer.Header.Type == mdnetlink.Error {
					return nil
				}
				if err := decodeElements(set, answer, each); err != nil {
					return err
				}
			}
		}
	})
}

// elementMessages groups elements by set.
func elementMessages(kind int, flags mdnetlink.HeaderFlags, elements []element) (messages []mdnetlink.Message, err error) {
	for begin := 0; begin < len(elements); {
		end := begin + 1
		for end < len(elements) && end-begin < maxElements && elements[end].set == elements[begin].set {
			end++
		}
		m, err := elementMessage(kind, elements[begin].set, elements[begin:end])
		if err != nil {
			return nil, err
		}
		m.Header.Flags |= flags
		messages = append(messages, m)
		begin = end
	}
	return messages, nil
}

// elementMessage is a message about elements of one set: NFTA_SET_ELEM_LIST_*, linux/netfilter/nf_tables.h.
func elementMessage(kind int, set string, elements []element) (mdnetlink.Message, error) {
	encoder := mdnetlink.NewAttributeEncoder()
	encoder.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
	encoder.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	if len(elements) > 0 {
		encoder.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *mdnetlink.AttributeEncoder) error {
			for _, e := range elements {
				list.Nested(unix.NFTA_LIST_ELEM, e.encode)
			}
			return nil
		})
	}
	data, err := encoder.Encode()
	family := byte(unix.NFPROTO_INET)
	if set == arpGuests {
		family = unix.NFPROTO_ARP
	}
	return mdnetlink.Message{
		Header: mdnetlink.Header{Type: mdnetlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: mdnetlink.Request},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...), // struct nfgenmsg
	}, err
}

func batchMark(kind int) mdnetlink.Message {
	return mdnetlink.Message{
		Header: mdnetlink.Header{Type: mdnetlink.HeaderType(kind), Flags: mdnetlink.Request},
		Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}, // struct nfgenmsg
	}
}
