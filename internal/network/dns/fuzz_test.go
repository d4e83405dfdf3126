package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// start is when the sandboxes of fuzzers asked first.
var start = time.Now()

// fuzzed is a forwarder for a sandbox, whose upstream answers each query with upstream behind the question.
func fuzzed(t testing.TB, upstream []byte) (*Forwarder, *net.UDPAddr) {
	host := &fakeHost{policies: map[netip.Addr]Policy{}, pinned: map[string][]netip.Addr{}}
	host.set(t, one, true, []string{"*.example"}, []string{"*.denied.example"})
	host.allowIPv6(one)
	f := New(Config{
		Host: host, Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, Logger: slog.New(slog.DiscardHandler),
		Dial: func(context.Context, string, string) (net.Conn, error) { return answering(upstream), nil },
	})
	return f, net.UDPAddrFromAddrPort(netip.AddrPortFrom(one, 1000))
}

// answering returns a connection, one of streams, that answers a query with its own header and question and then with rest.
func answering(rest []byte) net.Conn {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		conn := dns.Conn{Conn: there}
		q, err := conn.ReadMsg()
		if err != nil {
			return
		}
		m := new(dns.Msg).SetReply(q)
		b, err := m.Pack()
		if err != nil {
			return
		}
		b[7] = 3 // as many answers as there may be in rest
		_, _ = conn.Write(append(b, rest...))
	}()
	return here
}

// FuzzQuery: nothing that a guest sends makes the forwarder panic, or answer something that is no answer.
func FuzzQuery(f *testing.F) {
	for _, name := range []string{"www.example.", "x.denied.example.", ".", `a\.b.example.`, "1.0.0.10.in-addr.arpa.", "1.0.6.2.ip6.arpa."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeANY, dns.TypeHTTPS} {
			q := new(dns.Msg).SetQuestion(name, qtype)
			q.SetEdns0(4096, true)
			b, err := q.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Add([]byte{7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12})
	f.Fuzz(func(t *testing.T, query []byte) {
		forwarder, from := fuzzed(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
		defer cancel()
		policy, _ := forwarder.asker(from)
		answer := forwarder.answer(ctx, from, forwarder.clients.get(policy.Sandbox, start), query, udpSize)
		var m dns.Msg
		if len(answer) > udpSize || answer != nil && (m.Unpack(answer) != nil || !m.Response || m.Id != uint16(query[0])<<8|uint16(query[1])) {
			t.Fatalf("%x is answered by %x", query, answer)
		}
	})
}

// FuzzUpstream: nothing that an upstream, and so whoever runs a domain, answers makes the forwarder panic or lead inside.
func FuzzUpstream(f *testing.F) {
	record := func(texts ...string) {
		var b []byte
		for _, text := range texts {
			rr, err := dns.NewRR(text)
			if err != nil {
				f.Fatal(err)
			}
			packed := make([]byte, 512)
			n, err := dns.PackRR(rr, packed, 0, nil, false)
			if err != nil {
				f.Fatal(err)
			}
			b = append(b, packed[:n]...)
		}
		f.Add(b)
	}
	record("www.example. 60 IN A 192.0.2.1", "www.example. 60 IN A 10.0.0.1", "other.example. 60 IN A 192.0.2.2")
	record("www.example. 60 IN CNAME a.example.", "a.example. 60 IN CNAME www.example.", "a.example. 60 IN A 192.0.2.2")
	record("www.example. 60 IN AAAA 2600::1", "www.example. 60 IN AAAA ::ffff:10.0.0.1", "other.example. 60 IN AAAA fd00::1")
	record("www.example. 60 IN HTTPS 1 . ipv4hint=10.0.0.1", "www.example. 60 IN TXT \"x\"")
	f.Fuzz(func(t *testing.T, rest []byte) {
		forwarder, from := fuzzed(t, rest)
		qtype := dns.TypeA
		if len(rest)%2 == 1 {
			qtype = dns.TypeAAAA
		}
		query, err := new(dns.Msg).SetQuestion("www.example.", qtype).Pack()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
		defer cancel()
		policy, _ := forwarder.asker(from)
		answer := forwarder.answer(ctx, from, forwarder.clients.get(policy.Sandbox, start), query, tcpSize)
		var m dns.Msg
		if err := m.Unpack(answer); err != nil {
			t.Fatalf("the answer %x: %v", answer, err)
		}
		for _, text := range addresses(&m) {
			if forwarder.reachOf(policy.NetworkPolicy, netip.MustParseAddr(text)) == never {
				t.Fatalf("led to %s", text)
			}
		}
	})
}
