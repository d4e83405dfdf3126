package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// ended waits until a connection is closed at the other end.
func (r *rig) ended(conn *dns.Conn, what string) {
	r.Helper()
	if m, err := conn.ReadMsg(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		r.Errorf("%s: answered %v, %v", what, m, err)
	}
}

// TestStreamsAreBounded in number: one that ends makes room for another.
func TestStreamsAreBounded(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, false, nil, nil)
	r.host.set(t, two, false, nil, nil)
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	var open []*dns.Conn
	for range maxStreams {
		open = append(open, r.connect("tcp", one))
		r.exchange(open[len(open)-1], q)
	}
	r.ended(r.connect("tcp", one), "one stream too many")
	r.exchange(r.connect("tcp", two), q)
	for _, conn := range open[1:] {
		conn.Close()
	}
	r.exchange(open[0], q)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		conn := r.connect("tcp", one)
		if conn.WriteMsg(q) == nil {
			if _, err := conn.ReadMsg(); err == nil {
				break
			}
		}
		if time.Now().After(end) {
			t.Fatal("streams that have ended make no room")
		}
	}
}

// TestStreamsThatAreCutOff: who sends too much, who is no sandbox any more, and who asks too often.
func TestStreamsThatAreCutOff(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, false, nil, nil)
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	conn := r.connect("tcp", one)
	packed, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	large := append(binary.BigEndian.AppendUint16(nil, maxQuery+1), append(packed, make([]byte, maxQuery+1-len(packed))...)...)
	if _, err := conn.Conn.Write(large); err != nil {
		t.Fatal(err)
	}
	r.ended(conn, "a query too large")

	r.host.set(t, two, false, nil, nil)
	gone := r.connect("tcp", two)
	r.exchange(gone, q)
	r.host.mu.Lock()
	delete(r.host.policies, two)
	r.host.mu.Unlock()
	if err := gone.WriteMsg(q); err != nil {
		t.Fatal(err)
	}
	r.ended(gone, "a sandbox that has gone")

	conn = r.connect("tcp", one)
	answered := 0
	for range 10 * queriesBurst {
		if conn.WriteMsg(q) != nil {
			break
		}
		if _, err := conn.ReadMsg(); err != nil {
			break
		}
		answered++
	}
	policy, _ := r.host.Policy(one)
	if rules := r.host.refused(policy.Sandbox, ""); answered < queriesBurst/2 || answered == 10*queriesBurst || len(rules) == 0 || rules[0] != TooManyNames {
		t.Errorf("%d queries in a row were answered, then refused by %v", answered, rules)
	}
}

// TestPanicIsSilence: it ends one query, and neither the others nor the agent.
func TestPanicIsSilence(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, false, []string{"example.com", "other.example"}, nil)
	for _, name := range []string{"example.com", "other.example"} {
		r.upstream.has(t, name, name+". 60 IN A 192.0.2.1")
	}
	panicked := make(chan struct{}, 10)
	r.host.onPin(func(Policy) error { panicked <- struct{}{}; panic("at the disco") })
	conn := r.connect("udp", one)
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion("example.com.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	<-panicked
	r.host.onPin(nil)
	if m := r.ask(one, "other.example", dns.TypeA); len(addresses(m)) != 1 {
		t.Errorf("the next query was answered %v", m)
	}
}

// strand is a connection from a sandbox, in memory.
type strand struct{ net.Conn }

func (strand) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPortFrom(one, 7000)) }

// TestStreamsThatStall: a guest that says nothing, one that begins and does not go on, and one that does not read are let go after a time, and all when the forwarder ends.
func TestStreamsThatStall(t *testing.T) {
	query, err := new(dns.Msg).SetQuestion("example.com.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	whole := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	for what, said := range map[string][]byte{"silent": nil, "half a query": whole[:5], "does not read": whole} {
		for _, stop := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				host := &fakeHost{policies: map[netip.Addr]Policy{}}
				host.set(t, one, false, nil, nil)
				f := New(Config{Host: host, Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}})
				guest, ours := net.Pipe()
				defer guest.Close()
				go func() { _, _ = guest.Write(said) }()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if stop {
					time.AfterFunc(time.Second, cancel)
				}
				begin := time.Now()
				f.converse(ctx, strand{ours}, f.clients.get(id.Sandbox("sb-00000002"), begin))
				want := streamLimit
				if stop {
					want = time.Second
				}
				if took := time.Since(begin); took != want {
					t.Errorf("%s, stopped %v: it ended after %s, want %s", what, stop, took, want)
				}
			})
		}
	}
}
