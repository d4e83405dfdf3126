package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestPolicy: which names are answered, which are pinned, and what is said of the others.
func TestPolicy(t *testing.T) {
	r := newRig(t, nil)
	for _, name := range []string{"example.com", "www.example.com", "a.b.example.com", "evil.example.com", "other.example", "nothing.example"} {
		r.upstream.has(t, name, name+". 300 IN A 192.0.2.1")
	}
	const answered, pinned = "answered", "pinned"
	for _, c := range []struct {
		internet    bool
		allow, deny []string
		name, want  string
	}{
		{true, nil, nil, "example.com", answered},
		{false, nil, nil, "example.com", string(NameUnlisted)},
		{false, []string{"192.0.2.0/24"}, nil, "example.com", string(NameUnlisted)},
		{false, []string{"example.com"}, nil, "example.com", pinned},
		{false, []string{"example.com"}, nil, "www.example.com", string(NameUnlisted)},
		{false, []string{"*.example.com"}, nil, "a.b.example.com", pinned},
		{false, []string{"*.example.com"}, nil, "example.com", string(NameUnlisted)},
		{true, nil, []string{"*.example.com"}, "www.example.com", string(NameDenied)},
		{true, nil, []string{"*.example.com"}, "example.com", answered},
		{true, []string{"www.example.com"}, []string{"*.example.com"}, "www.example.com", pinned},
		{true, []string{"*.example.com"}, []string{"evil.example.com"}, "evil.example.com", pinned},
		{true, []string{"example.com"}, nil, "other.example", answered},
	} {
		r.host.set(t, one, c.internet, c.allow, c.deny)
		policy, _ := r.host.Policy(one)
		r.host.clear()
		m := r.ask(one, strings.ToUpper(c.name), dns.TypeA)
		pins, refusals := r.host.pins(policy.Sandbox, c.name), r.host.refused(policy.Sandbox, c.name)
		got := answered
		switch {
		case len(refusals) > 0:
			got = string(refusals[0])
		case len(pins) > 0:
			got = pinned
		}
		if got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
		if ok := m.Rcode == dns.RcodeSuccess && slices.Equal(addresses(m), []string{"192.0.2.1"}); ok != (c.want == answered || c.want == pinned) {
			t.Errorf("%+v: answered %v", c, m)
		}
		if code, text := reason(m); len(refusals) > 0 && (m.Rcode != dns.RcodeNameError || code != int(dns.ExtendedErrorCodeBlocked) || !strings.Contains(text, "network policy")) {
			t.Errorf("%+v: refused as %v", c, m)
		}
	}
}

// TestPinsComeFirst: when the guest has the answer, it may connect.
func TestPinsComeFirst(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, false, []string{"example.com"}, nil)
	r.upstream.has(t, "example.com", "example.com. 5 IN A 192.0.2.1", "example.com. 30 IN A 192.0.2.2")
	hold, pinning := make(chan struct{}), make(chan struct{})
	r.host.onPin(func(Policy) error { close(pinning); <-hold; return nil })
	conn := r.connect("udp", one)
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	if err := conn.WriteMsg(q); err != nil {
		t.Fatal(err)
	}
	select {
	case <-pinning:
	case <-time.After(patience):
		t.Fatal("nothing is pinned")
	}
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if m, err := conn.ReadMsg(); err == nil {
		t.Fatalf("answered before the addresses are pinned: %v", m)
	}
	close(hold)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	m, err := conn.ReadMsg()
	if err != nil || len(addresses(m)) != 2 {
		t.Fatalf("%v, %v", m, err)
	}
	if ttls := r.host.lives(); ttls[0] != pinFloor+pinGrace {
		t.Errorf("pinned for %s", ttls[0])
	}
}

// TestChainBelongsToTheName: aliases are followed, and what an answer says of other names is not believed.
func TestChainBelongsToTheName(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, false, []string{"www.example.com"}, nil)
	r.upstream.has(t, "www.example.com",
		"www.example.com. 300 IN CNAME cdn.example.net.", "cdn.example.net. 300 IN CNAME edge.example.org.",
		"edge.example.org. 600 IN A 192.0.2.1", "victim.example. 300 IN A 192.0.2.66", "edge.example.org. 60 IN TXT \"x\"")
	m := r.ask(one, "www.example.com", dns.TypeA)
	policy, _ := r.host.Policy(one)
	if got := r.host.pins(policy.Sandbox, "www.example.com"); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("192.0.2.1")}) {
		t.Errorf("pinned are %v", got)
	}
	if len(m.Answer) != 3 || !slices.Equal(addresses(m), []string{"192.0.2.1"}) || m.Answer[0].Header().Name != "www.example.com." {
		t.Errorf("answered is %v", m.Answer)
	}
	r.upstream.has(t, "loop.example", "loop.example. 1 IN CNAME pool.example.", "pool.example. 1 IN CNAME loop.example.")
	r.host.set(t, one, true, nil, nil)
	if m := r.ask(one, "loop.example", dns.TypeA); len(m.Answer) > maxChain || len(addresses(m)) > 0 {
		t.Errorf("a loop of aliases gave %v", m)
	}
}

// TestRebinding: no name leads inside.
func TestRebinding(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Denied = []netip.Prefix{netip.MustParsePrefix("172.20.0.0/16")} })
	r.host.set(t, one, true, []string{"10.1.0.0/16", "172.20.0.0/24", "*.allowed.example"}, nil)
	policy, _ := r.host.Policy(one)
	for address, leads := range map[string]bool{
		"127.0.0.1": false, "169.254.169.254": false, "0.0.0.0": false, "224.0.0.1": false, "255.255.255.255": false,
		"10.0.0.1": false, "192.168.1.1": false, "172.16.0.1": false, "100.64.0.1": false,
		"172.20.0.1": false, // the sandboxes' own, whatever the policy allows
		"10.1.2.3":   true, "192.0.2.1": true,
	} {
		for _, name := range []string{"x.example", "x.allowed.example"} {
			name = strings.ReplaceAll(address, ".", "-") + "." + name
			r.upstream.has(t, name, name+". 60 IN A "+address)
			m := r.ask(one, name, dns.TypeA)
			if got := slices.Contains(addresses(m), address); got != leads {
				t.Errorf("%s leads to %s: %v", name, address, got)
			}
			if rules := r.host.refused(policy.Sandbox, name); !leads && (len(rules) != 1 || rules[0] != Rebinding || m.Rcode != dns.RcodeNameError) {
				t.Errorf("%s is refused by %v with %s", name, rules, dns.RcodeToString[m.Rcode])
			}
			if pins := r.host.pins(policy.Sandbox, name); len(pins) > 0 && address != "192.0.2.1" {
				t.Errorf("%s pinned %v", name, pins)
			}
		}
	}
	r.upstream.has(t, "both.example", "both.example. 60 IN A 192.0.2.1", "both.example. 60 IN A 10.0.0.1")
	if m := r.ask(one, "both.example", dns.TypeA); !slices.Equal(addresses(m), []string{"192.0.2.1"}) || m.Rcode != dns.RcodeSuccess {
		t.Errorf("of a public and a private address there is left %v", m)
	}
}

// TestIPv6: where the policy allows IPv6, a name leads to its addresses of that, which are pinned as others are and do not lead inside.
func TestIPv6(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Denied = []netip.Prefix{netip.MustParsePrefix("fd57::/16")} })
	r.host.set(t, one, false, []string{"*.example", "fd12::/16", "fd57:1::/32"}, nil)
	policy, _ := r.host.Policy(one)
	r.upstream.has(t, "www.example", "www.example. 60 IN CNAME cdn.example.", "cdn.example. 60 IN AAAA 2600::1", "cdn.example. 60 IN A 192.0.2.1")
	if m := r.ask(one, "www.example", dns.TypeAAAA); len(m.Answer) > 0 || m.Rcode != dns.RcodeSuccess || r.upstream.times("www.example") > 0 {
		t.Errorf("without IPv6: %v", m)
	}
	r.host.allowIPv6(one)
	if m := r.ask(one, "www.example", dns.TypeAAAA); !slices.Equal(addresses(m), []string{"2600::1"}) || m.Rcode != dns.RcodeSuccess {
		t.Errorf("with IPv6: %v", m)
	}
	if got := r.host.pins(policy.Sandbox, "www.example"); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("2600::1")}) {
		t.Errorf("pinned are %v", got)
	}
	if m := r.ask(one, "www.other", dns.TypeAAAA); m.Rcode != dns.RcodeNameError {
		t.Errorf("a name that is not allowed: %v", m)
	}
	for address, leads := range map[string]bool{
		"::": false, "::1": false, "::ffff:10.0.0.1": false, "::ffff:192.0.2.1": false, "::10.0.0.1": false, "64:ff9b::a00:1": false, "64:ff9b:1::a9fe:a9fe": false,
		"2002:a00:1::1": false, "2001:0:a00:1::1": false, "fe80::1": false, "fec0::1": false, "ff02::1": false, "4000::1": false,
		"fd00:ec2::254": false, "fd20:ce::254": false, "fd13::1": false, "2001:2::1": false, "fd57:1::1": false,
		"fd12::1": true, "2600::7": true,
	} {
		name := strings.NewReplacer(":", "-", ".", "-").Replace("x"+address+"x") + ".example"
		r.upstream.has(t, name, name+". 60 IN AAAA "+address)
		m := r.ask(one, name, dns.TypeAAAA)
		if got := len(addresses(m)) > 0; got != leads {
			t.Errorf("%s leads to %s: %v", name, address, got)
		}
		if rules := r.host.refused(policy.Sandbox, name); !leads && (len(rules) != 1 || rules[0] != Rebinding || m.Rcode != dns.RcodeNameError) {
			t.Errorf("%s is refused by %v with %s", name, rules, dns.RcodeToString[m.Rcode])
		}
		if pins := r.host.pins(policy.Sandbox, name); len(pins) > 0 && address != "2600::7" {
			t.Errorf("%s pinned %v", name, pins)
		}
	}
	r.host.set(t, one, true, nil, nil)
	r.host.allowIPv6(one)
	nibbles := func(head string) string {
		return strings.TrimPrefix(strings.Repeat(".0", 32-len(head)), ".") + "." + strings.Join(strings.Split(head, ""), ".") + ".ip6.arpa"
	}
	for name, want := range map[string]int{
		nibbles("0062"): dns.RcodeSuccess, nibbles("31df"): dns.RcodeNameError, nibbles("08ef"): dns.RcodeNameError,
		"0.0.6.2.ip6.arpa": dns.RcodeNameError, strings.Replace(nibbles("0062"), "0.0.0", "00.0", 1): dns.RcodeNameError, "x.ip6.arpa": dns.RcodeNameError,
	} {
		r.upstream.has(t, name, name+". 60 IN PTR host.example.")
		if m := r.ask(one, name, dns.TypePTR); m.Rcode != want {
			t.Errorf("PTR %s: %v", name, m)
		}
	}
}

// TestTypes: without leave IPv6 does not exist, transfers and ANY are refused, hints of addresses are taken out.
func TestTypes(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, true, nil, []string{"denied.example"})
	r.upstream.has(t, "example.com", "example.com. 60 IN TXT \"hello\"", "example.com. 60 IN AAAA 2001:db8::1",
		"example.com. 60 IN HTTPS 1 . alpn=h2 ipv4hint=10.0.0.1 ipv6hint=2001:db8::1", "example.com. 60 IN MX 5 mail.example.com.")
	for qtype, want := range map[uint16]int{
		dns.TypeANY: dns.RcodeRefused, dns.TypeAXFR: dns.RcodeRefused, dns.TypeIXFR: dns.RcodeRefused, dns.TypeTKEY: dns.RcodeRefused,
		dns.TypeOPT: dns.RcodeRefused, dns.TypeReserved: dns.RcodeRefused, dns.TypeNone: dns.RcodeRefused,
		dns.TypeAAAA: dns.RcodeSuccess, dns.TypeTXT: dns.RcodeSuccess, dns.TypeHTTPS: dns.RcodeSuccess, dns.TypeMX: dns.RcodeSuccess,
	} {
		m := r.ask(one, "example.com", qtype)
		if m.Rcode != want || want == dns.RcodeRefused && len(m.Answer) > 0 {
			t.Errorf("%s: %v", dns.Type(qtype), m)
		}
		switch qtype {
		case dns.TypeAAAA:
			if len(m.Answer) > 0 {
				t.Errorf("there is IPv6: %v", m.Answer)
			}
		case dns.TypeHTTPS:
			if text := fmt.Sprint(m.Answer); !strings.Contains(text, "h2") || strings.Contains(text, "hint") {
				t.Errorf("a service binding is passed on as %s", text)
			}
		}
	}
	if m := r.ask(one, "denied.example", dns.TypeAAAA); m.Rcode != dns.RcodeNameError {
		t.Errorf("a denied name exists for AAAA: %v", m)
	}
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeTXT)
	q.Question[0].Qclass = dns.ClassCHAOS
	if m := r.exchange(r.connect("udp", one), q); m.Rcode != dns.RcodeRefused {
		t.Errorf("class CH: %v", m)
	}
	for name, want := range map[string]int{"1.0.0.10.in-addr.arpa": dns.RcodeNameError, "254.169.254.169.in-addr.arpa": dns.RcodeNameError,
		"x.in-addr.arpa": dns.RcodeNameError, "8.b.d.0.1.0.0.2.ip6.arpa": dns.RcodeNameError,
		strings.Repeat("0.", 24) + "8.b.d.0.1.0.0.2.ip6.arpa": dns.RcodeNameError, "1.2.0.192.in-addr.arpa": dns.RcodeSuccess} {
		r.upstream.has(t, name, name+". 60 IN PTR host.example.")
		if m := r.ask(one, name, dns.TypePTR); m.Rcode != want {
			t.Errorf("PTR %s: %v", name, m)
		}
	}
}

// TestMalformed: what is no proper query gets the answer that says so, or none.
func TestMalformed(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, true, nil, nil)
	r.upstream.has(t, "example.com", "example.com. 60 IN A 192.0.2.1")
	r.upstream.has(t, `a\.example.com`, `a\.example.com. 60 IN A 192.0.2.1`)
	for name, c := range map[string]struct {
		change func(*dns.Msg)
		rcode  int
	}{
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"no question":   {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"an answer": {func(m *dns.Msg) {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeA, Class: 1}, A: net.IPv4(1, 2, 3, 4)}}
		}, dns.RcodeFormatError},
		"notify":   {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		"update":   {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"EDNS 1":   {func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		"odd name": {func(m *dns.Msg) { m.Question[0].Name = `a\.example.com.` }, dns.RcodeNameError},
	} {
		q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
		c.change(q)
		if m := r.exchange(r.connect("udp", one), q); m.Rcode != c.rcode {
			t.Errorf("%s: %s", name, dns.RcodeToString[m.Rcode])
		}
	}
	conn := r.connect("udp", one)
	response, err := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("example.com.", dns.TypeA)).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, junk := range [][]byte{{}, {1}, make([]byte, 11), make([]byte, 3000), response, append([]byte{9, 9, 0x80}, make([]byte, 20)...)} {
		if _, err := conn.Conn.Write(junk); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Conn.Write([]byte{7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63}); err != nil { // a question that ends early
		t.Fatal(err)
	}
	if m, err := conn.ReadMsg(); err != nil || m.Id != 0x0707 || m.Rcode != dns.RcodeFormatError {
		t.Errorf("a broken query is answered with %v, %v", m, err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if m, err := conn.ReadMsg(); err == nil {
		t.Errorf("what is no query is answered with %v", m)
	}
	if m := r.ask(one, "example.com", dns.TypeA); len(addresses(m)) != 1 {
		t.Errorf("after all that: %v", m)
	}
}

// TestStrangersGetNothing: what comes from no sandbox is not answered.
func TestStrangersGetNothing(t *testing.T) {
	r := newRig(t, nil)
	conn := r.connect("udp", two)
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion("example.com.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if m, err := conn.ReadMsg(); err == nil {
		t.Errorf("a stranger is answered %v", m)
	}
	conn = r.connect("tcp", two)
	_ = conn.SetReadDeadline(time.Now().Add(streamLimit / 2)) // earlier than a stream that is silent
	r.ended(conn, "a stranger's connection")
}

// TestLargeAnswers: what does not fit into a packet is had over TCP, from upstream and by the guest.
func TestLargeAnswers(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, true, nil, nil)
	r.upstream.answers("large.example", func(q *dns.Msg, overTCP bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		if m.Truncated = !overTCP; overTCP {
			for i := range 200 {
				rr, _ := dns.NewRR(fmt.Sprintf("large.example. 60 IN A 192.0.2.%d", i))
				m.Answer = append(m.Answer, rr)
			}
		}
		return m
	})
	if m := r.ask(one, "large.example", dns.TypeA); !m.Truncated || len(m.Answer) > 0 {
		t.Errorf("over UDP: truncated %v, %d records", m.Truncated, len(m.Answer))
	}
	conn := r.connect("tcp", one)
	for range 3 { // one connection serves many
		if m := r.exchange(conn, new(dns.Msg).SetQuestion("large.example.", dns.TypeA)); m.Truncated || len(m.Answer) != 200 {
			t.Errorf("over TCP: truncated %v, %d records", m.Truncated, len(m.Answer))
		}
	}
	var records []string
	for i := range 40 {
		records = append(records, fmt.Sprintf("medium.example. 60 IN A 192.0.2.%d", i))
	}
	r.upstream.has(t, "medium.example", records...)
	if m := r.exchange(r.connect("udp", one), new(dns.Msg).SetQuestion("medium.example.", dns.TypeA)); !m.Truncated {
		t.Errorf("a guest without EDNS got %d records", len(m.Answer))
	}
	if m := r.ask(one, "medium.example", dns.TypeA); m.Truncated || len(m.Answer) != 40 {
		t.Errorf("a guest with EDNS got %d records", len(m.Answer))
	}
}

// TestCacheAndStale: an answer is kept for its life, and beyond it while no upstream answers.
func TestCacheAndStale(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, true, nil, nil)
	r.host.set(t, two, true, nil, nil)
	r.upstream.has(t, "kept.example", "kept.example. 300 IN A 192.0.2.1")
	r.upstream.has(t, "short.example", "short.example. 0 IN A 192.0.2.2")
	for range 3 {
		r.ask(one, "kept.example", dns.TypeA)
	}
	if n := r.upstream.times("kept.example"); n != 1 {
		t.Errorf("asked upstream %d times", n)
	}
	r.ask(two, "kept.example", dns.TypeA)
	if n := r.upstream.times("kept.example"); n != 2 {
		t.Errorf("sandboxes share a cache: asked upstream %d times", n)
	}
	r.ask(one, "short.example", dns.TypeA)
	r.upstream.stop()
	m := r.ask(one, "short.example", dns.TypeA)
	if code, _ := reason(m); !slices.Equal(addresses(m), []string{"192.0.2.2"}) || code != int(dns.ExtendedErrorCodeStaleAnswer) || m.Answer[0].Header().Ttl != 30 {
		t.Errorf("without an upstream: %v", m)
	}
	m = r.ask(one, "new.example", dns.TypeA)
	if code, text := reason(m); m.Rcode != dns.RcodeServerFailure || code != int(dns.ExtendedErrorCodeNoReachableAuthority) || text == "" {
		t.Errorf("without an upstream: %v", m)
	}
	r.host.set(t, one, false, nil, nil)
	if m := r.ask(one, "kept.example", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("a kept answer is given against the policy: %v", m)
	}
}

// TestUpstreamsInTurn: the next one is asked when one is away, fails, or refuses.
func TestUpstreamsInTurn(t *testing.T) {
	good, bad, silent := startUpstream(t), startUpstream(t), startUpstream(t)
	good.has(t, "example.com", "example.com. 60 IN A 192.0.2.1")
	bad.answers("example.com", func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure) })
	silent.answers("example.com", func(*dns.Msg, bool) *dns.Msg { return nil })
	away := startUpstream(t)
	away.stop()
	for name, first := range map[string]*upstream{"bad": bad, "silent": silent, "away": away} {
		r := newRig(t, func(c *Config) { c.Upstreams = []netip.AddrPort{first.address, good.address} })
		r.host.set(t, one, true, nil, nil)
		if m := r.ask(one, "example.com", dns.TypeA); len(addresses(m)) != 1 {
			t.Errorf("%s: %v", name, m)
		}
	}
}

// TestForgedAnswers: an answer with another id, another question or from elsewhere is not believed.
func TestForgedAnswers(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, true, nil, nil)
	forge := func(change func(*dns.Msg)) func(*dns.Msg, bool) *dns.Msg {
		return func(q *dns.Msg, overTCP bool) *dns.Msg {
			m := new(dns.Msg).SetReply(q)
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 192.0.2.1")
			if m.Answer = []dns.RR{rr}; !overTCP {
				change(m)
			}
			return m
		}
	}
	r.upstream.answers("id.example", forge(func(m *dns.Msg) { m.Id++ }))
	r.upstream.answers("name.example", forge(func(m *dns.Msg) { m.Question[0].Name = "other.example." }))
	r.upstream.answers("type.example", forge(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT }))
	r.upstream.answers("query.example", forge(func(m *dns.Msg) { m.Response = false }))
	for _, name := range []string{"id.example", "name.example", "type.example", "query.example"} {
		if m := r.ask(one, name, dns.TypeA); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: believed %v", name, m)
		}
	}
	// Where only the letters' case differs it may be a server that does not keep it: it is asked over TCP.
	r.upstream.answers("case-of-many-letters.example", forge(func(m *dns.Msg) { m.Question[0].Name = strings.ToLower(m.Question[0].Name) }))
	if m := r.ask(one, "case-of-many-letters.example", dns.TypeA); len(addresses(m)) != 1 || r.upstream.times("case-of-many-letters.example") != 2 {
		t.Errorf("asked %d times: %v", r.upstream.times("case-of-many-letters.example"), m)
	}
}

// TestQueriesDiffer: ids and case are not to be guessed.
func TestQueriesDiffer(t *testing.T) {
	ids, names := map[uint16]bool{}, map[string]bool{}
	for range 50 {
		q := newQuery(dns.Question{Name: "a-name-of-many-letters.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET})
		ids[q.Id], names[q.Question[0].Name] = true, true
		if !strings.EqualFold(q.Question[0].Name, "a-name-of-many-letters.example.") {
			t.Fatalf("asked for %s", q.Question[0].Name)
		}
	}
	if len(ids) < 40 || len(names) < 40 {
		t.Errorf("50 queries had %d ids and %d cases", len(ids), len(names))
	}
}

// TestPolicyChangesMeanwhile: an answer is judged by the policy under which it is pinned.
func TestPolicyChangesMeanwhile(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, false, []string{"example.com"}, nil)
	r.upstream.has(t, "example.com", "example.com. 60 IN A 192.0.2.1")
	r.host.onPin(func(p Policy) error {
		if p.Generation == 1 {
			r.host.set(t, one, false, nil, nil)
			return ErrChanged
		}
		return nil
	})
	if m := r.ask(one, "example.com", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("answered by a policy that is not in force: %v", m)
	}
	r.host.set(t, one, false, []string{"example.com"}, nil)
	r.host.onPin(func(Policy) error { return errors.New("no") })
	if m := r.ask(one, "example.com", dns.TypeA); m.Rcode != dns.RcodeServerFailure || len(m.Answer) > 0 {
		t.Errorf("answered what is not pinned: %v", m)
	}
	r.host.onPin(func(Policy) error { return models.Errorf(models.Exhausted, "too many") })
	policy, _ := r.host.Policy(one)
	if m := r.ask(one, "example.com", dns.TypeA); m.Rcode != dns.RcodeServerFailure || !slices.Contains(r.host.refused(policy.Sandbox, "example.com"), TooManyNames) {
		t.Errorf("a sandbox with too many pins got %v", m)
	}
}

// TestFloodHoldsUpNobody: one sandbox that asks without end, for names whose servers do not answer, is refused, and another is answered.
func TestFloodHoldsUpNobody(t *testing.T) {
	r := newRig(t, nil)
	r.host.set(t, one, true, nil, nil)
	r.host.set(t, two, true, nil, nil)
	r.upstream.has(t, "example.com", "example.com. 0 IN A 192.0.2.1")
	flood := r.connect("udp", one)
	for i := range 3 * queriesBurst {
		name := fmt.Sprintf("n%d.slow.example.", i)
		r.upstream.answers(name, func(*dns.Msg, bool) *dns.Msg { return nil })
		if err := flood.WriteMsg(new(dns.Msg).SetQuestion(name, dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 * maxStreams {
		_ = r.connect("tcp", one)
	}
	if m := r.ask(two, "example.com", dns.TypeA); len(addresses(m)) != 1 {
		t.Errorf("another sandbox got %v", m)
	}
	policy, _ := r.host.Policy(one)
	if rules := r.host.refused(policy.Sandbox, ""); len(rules) == 0 || rules[0] != TooManyNames {
		t.Errorf("the flood was refused by %v", rules)
	}
	asked := 0
	for i := range 3 * queriesBurst {
		asked += min(r.upstream.times(fmt.Sprintf("n%d.slow.example", i)), 1)
	}
	if asked > queriesBurst {
		t.Errorf("of %d names %d were asked upstream", 3*queriesBurst, asked)
	}
	r.forwarder.clients.mu.Lock()
	defer r.forwarder.clients.mu.Unlock()
	if c := r.forwarder.clients.of[policy.Sandbox]; c.underWay > maxUnderWay || c.streams > maxStreams {
		t.Errorf("%d queries and %d streams of it are under way", c.underWay, c.streams)
	}
}

// TestLimits: the rates of queries and of bytes, and the fair share.
func TestLimits(t *testing.T) {
	now := time.Now()
	held := true
	c := newClients(func(id.Sandbox) bool { return held })
	a := c.get("sb-00000001", now)
	for i := range maxUnderWay {
		if !c.admit(a, 30, now) {
			t.Fatalf("query %d is not admitted", i)
		}
	}
	if c.admit(a, 30, now) {
		t.Error("more than the limit are under way")
	}
	for range maxUnderWay {
		c.done(a, 100, now)
	}
	c.underWay = crowd
	for i := range fairShare + 1 {
		if got := c.admit(a, 30, now); got != (i < fairShare) {
			t.Errorf("in a crowd query %d is admitted: %v", i, got)
		}
	}
	c.underWay, a.underWay = 0, 0
	b := c.get("sb-00000002", now)
	c.underWay, b.underWay = 1, 1
	c.done(b, bytesBurst, now) // one answer as large as all that is allowed at once
	if c.admit(b, 30, now) {
		t.Error("bytes are not limited")
	}
	if !c.admit(b, 30, now.Add(time.Second)) {
		t.Error("the limit of bytes does not end")
	}
	held = false
	c.get("sb-00000003", now.Add(2*sweepEvery))
	if len(c.of) > 1 {
		t.Errorf("%d sandboxes that are gone are remembered", len(c.of)-1)
	}
}

// TestCacheIsBounded by entries and by bytes.
func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	for i := range 2 * maxCached {
		c.put(cacheKey{fmt.Sprintf("small%d", i), 1}, found{size: 1})
	}
	if len(c.of) != maxCached {
		t.Errorf("%d small entries, want %d", len(c.of), maxCached)
	}
	for i := range 10 * maxCached {
		c.put(cacheKey{fmt.Sprintf("n%d", i), 1}, found{size: i})
	}
	if len(c.of) > maxCached || c.order.Len() != len(c.of) || c.bytes > maxCachedBytes {
		t.Errorf("%d entries of %d bytes", len(c.of), c.bytes)
	}
	if _, ok := c.get(cacheKey{fmt.Sprintf("n%d", 10*maxCached-1), 1}); !ok {
		t.Error("the newest is not there")
	}
	c.put(cacheKey{"huge", 1}, found{size: maxCachedBytes + 1})
	if len(c.of) != 0 || c.bytes != 0 {
		t.Errorf("after what is too large there are %d entries of %d bytes", len(c.of), c.bytes)
	}
}

// TestLivesAreBounded: of what does not exist, and of what is given while nobody answers. What is of another class is not believed at all.
func TestLivesAreBounded(t *testing.T) {
	q := dns.Question{Name: "example.com.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
	other := &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassCHAOS}, A: net.IPv4(192, 0, 2, 1)}
	if got := understand(&dns.Msg{Question: []dns.Question{q}, Answer: []dns.RR{other}}, q.Qtype); len(got.answer) > 0 {
		t.Errorf("of another class there is %v", got.answer)
	}
	soa, err := dns.NewRR("com. 900000 IN SOA a.example. b.example. 1 2 3 4 900000")
	if err != nil {
		t.Fatal(err)
	}
	if got := understand(&dns.Msg{Question: []dns.Question{q}, MsgHdr: dns.MsgHdr{Rcode: dns.RcodeNameError}, Ns: []dns.RR{soa}}, q.Qtype).life; got != maxNegative {
		t.Errorf("absence is believed for %s", got)
	}
	empty := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := New(Config{Host: &fakeHost{}, ResolvConf: empty, Logger: slog.New(slog.DiscardHandler)})
	c := f.clients.get("sb-00000001", time.Now())
	for age, want := range map[time.Duration]bool{2 * time.Minute: true, 2*time.Minute + staleFor: false} {
		c.cache.put(cacheKey{"example.com", q.Qtype}, found{learned: time.Now().Add(-age), life: time.Minute})
		if got, err := f.lookUp(t.Context(), c, q, "example.com"); (err == nil) != want || got.stale != want {
			t.Errorf("%s after it was learned: stale %v, %v", age, got.stale, err)
		}
	}
}

// TestResolvConf: the host's servers, as they are by now.
func TestResolvConf(t *testing.T) {
	got := nameservers("# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 \nnameserver x\nnameserver 127.0.0.53\nnameserver 192.0.2.4\n")
	want := "[192.0.2.1:53 [2001:db8::1]:53 127.0.0.53:53]"
	if fmt.Sprint(got) != want {
		t.Errorf("read %v, want %s", got, want)
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	list := follow(path, newRig(t, nil).forwarder.log)
	if got := list(); got != nil {
		t.Errorf("without a file there is %v", got)
	}
	for _, server := range []string{"192.0.2.1", "192.0.2.2"} {
		if err := os.WriteFile(path, []byte("nameserver "+server+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for fmt.Sprint(list()) != "["+server+":53]" && pause(ctx, 50*time.Millisecond) {
		}
		cancel()
		if got := fmt.Sprint(list()); got != "["+server+":53]" {
			t.Errorf("the file's change to %s gave %s", server, got)
		}
	}
}

// TestRangesOfModels: what is never reached and what is private are the same here and in models.
func TestRangesOfModels(t *testing.T) {
	f := New(Config{Host: &fakeHost{}})
	for _, r := range append(slices.Clone(models.AlwaysDenied), models.PrivateRanges...) {
		if f.reachOf(models.DefaultNetwork(), r.Addr()) != never {
			t.Errorf("%s may be reached", r.Prefix)
		}
	}
}
