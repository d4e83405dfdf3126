package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	// udpSize is the largest answer over UDP that needs no fragments on any way: DNS flag day 2020.
	udpSize = 1232
	tcpSize = 65535
	// pinFloor is the shortest life of a pin, and pinGrace what it lives longer than the answer: a program looks a name
	// up, does something else, and connects.
	pinFloor, pinGrace = time.Minute, time.Minute
	// maxTTL is the longest that a guest may keep an answer, so that it asks again before its pin is long gone.
	maxTTL = time.Hour
	// changes is how often a policy may change while one query is answered.
	changes = 5
)

// answer returns the answer to a query, nil for what is none.
func (f *Forwarder) answer(ctx context.Context, from net.Addr, c *client, query []byte, most int) []byte {
	var q dns.Msg
	if err := q.Unpack(query); err != nil || q.Response {
		return formatError(query)
	}
	reply := new(dns.Msg)
	reply.SetReply(&q)
	reply.RecursionAvailable = true
	opt := q.IsEdns0()
	if opt != nil {
		most = min(most, max(int(opt.UDPSize()), dns.MinMsgSize))
		reply.SetEdns0(udpSize, false)
	} else if most == udpSize {
		most = dns.MinMsgSize
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
	case len(q.Question) != 1 || len(q.Answer) > 0 || len(q.Ns) > 0:
		reply.Rcode = dns.RcodeFormatError
	case opt != nil && opt.Version() != 0:
		reply.Rcode = dns.RcodeBadVers
	default:
		f.resolve(ctx, from, c, q.Question[0], reply)
	}
	return pack(reply, most)
}

// formatError is the answer to what looks like a query and cannot be read.
func formatError(query []byte) []byte {
	const header, response = 12, 0x80
	if len(query) < header || query[2]&response != 0 {
		return nil
	}
	reply := dns.Msg{MsgHdr: dns.MsgHdr{Id: uint16(query[0])<<8 | uint16(query[1]), Response: true, Rcode: dns.RcodeFormatError}}
	return pack(&reply, dns.MinMsgSize)
}

// pack returns the message in at most this many bytes: without its records, and said to be so, when it is larger.
func pack(m *dns.Msg, most int) []byte {
	m.Compress = true
	b, err := m.Pack()
	if err == nil && len(b) <= most {
		return b
	}
	m.Answer, m.Ns, m.Truncated = nil, nil, true
	if err != nil { // records that an upstream sent and that cannot be sent on
		m.Truncated, m.Rcode = false, dns.RcodeServerFailure
	}
	if b, err = m.Pack(); err != nil || len(b) > most {
		return nil
	}
	return b
}

// resolve fills reply with what the policy allows of the answer to one question.
func (f *Forwarder) resolve(ctx context.Context, from net.Addr, c *client, q dns.Question, reply *dns.Msg) {
	if q.Qclass != dns.ClassINET || !forwarded(q.Qtype) {
		reply.Rcode = dns.RcodeRefused
		explain(reply, dns.ExtendedErrorCodeNotSupported, "this name server answers single types of class IN alone")
		return
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	for range changes {
		policy, known := f.asker(from)
		if !known {
			reply.Rcode = dns.RcodeRefused
			return
		}
		if err := f.resolveAs(ctx, policy, c, q, name, reply); !errors.Is(err, ErrChanged) {
			return
		}
		reply.Answer, reply.Rcode = nil, dns.RcodeSuccess
	}
	reply.Rcode = dns.RcodeServerFailure
}

// forwarded tells whether a type is one that is asked upstream: not a transfer, not ANY (RFC 8482), not one of a protocol's.
func forwarded(t uint16) bool {
	return t != dns.TypeNone && t != dns.TypeOPT && t < dns.TypeTKEY || t > dns.TypeANY && t != dns.TypeReserved
}

// resolveAs is resolve under one policy. It fails with ErrChanged when that is not in force any more.
func (f *Forwarder) resolveAs(ctx context.Context, p Policy, c *client, q dns.Question, name string, reply *dns.Msg) error {
	v := judge(p.NetworkPolicy, name)
	switch {
	case strings.Contains(name, `\`): // as a dot within a label, which would look like one between labels
		f.refuse(p, name, reply, verdict{rule: NameUnlisted, why: "it is no name of a host"})
		return nil
	case !v.allowed:
		f.refuse(p, name, reply, v)
		return nil
	case !v.pinned && f.hidden(p.NetworkPolicy, name):
		reply.Rcode = dns.RcodeNameError
		return nil
	case q.Qtype == dns.TypeAAAA && !p.IPv6:
		return nil
	}
	got, err := f.lookUp(ctx, c, q, name)
	if err != nil {
		reply.Rcode = dns.RcodeServerFailure
		explain(reply, dns.ExtendedErrorCodeNoReachableAuthority, "no name server of the host answers")
		return nil //nolint:nilerr // the guest is told
	}
	if got.stale {
		explain(reply, dns.ExtendedErrorCodeStaleAnswer, "no name server of the host answers; this is what one said before")
	}
	reply.Rcode = got.rcode
	reply.Answer = got.records(q.Name)
	if q.Qtype != dns.TypeA && q.Qtype != dns.TypeAAAA {
		return nil
	}
	return f.letReach(ctx, p, v, name, reply)
}

// letReach takes the addresses out of reply that the sandbox must not be led to, and pins the others where a rule allows the name.
func (f *Forwarder) letReach(ctx context.Context, p Policy, v verdict, name string, reply *dns.Msg) error {
	kept, pins := reply.Answer[:0], []netip.Addr(nil)
	ttl, inside := maxTTL, netip.Addr{}
	for _, rr := range reply.Answer {
		if isAddress(rr) {
			addr, whole := addressIn(rr)
			if !whole {
				continue
			}
			switch f.reachOf(p.NetworkPolicy, addr) {
			case never:
				inside = addr
				continue
			case public:
				pins = append(pins, addr)
			case byRule:
			}
		}
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
		kept = append(kept, rr)
	}
	reply.Answer = kept
	if inside.IsValid() {
		f.ledInside(p, name, inside, reply)
	}
	if !v.pinned || len(pins) == 0 {
		return nil
	}
	if err := f.cfg.Host.Pin(ctx, p, name, pins, max(ttl, pinFloor)+pinGrace); err != nil {
		if errors.Is(err, ErrChanged) {
			return err
		}
		f.notPinned(p, name, err)
		reply.Answer, reply.Rcode = nil, dns.RcodeServerFailure
		explain(reply, dns.ExtendedErrorCodeOther, "the host could not let the sandbox reach the name")
	}
	return nil
}

func isAddress(rr dns.RR) bool {
	return rr.Header().Rrtype == dns.TypeA || rr.Header().Rrtype == dns.TypeAAAA
}

// addressIn returns the address in a record of addresses, or false for one without.
func addressIn(rr dns.RR) (netip.Addr, bool) {
	switch rr := rr.(type) {
	case *dns.A:
		return netip.AddrFromSlice(rr.A.To4())
	case *dns.AAAA:
		return netip.AddrFromSlice(rr.AAAA.To16())
	}
	return netip.Addr{}, false
}

// notPinned tells the operator, or the user where it is the sandbox's doing.
func (f *Forwarder) notPinned(p Policy, name string, err error) {
	if models.CodeOf(err) == models.Exhausted {
		f.cfg.Host.Refused(Refusal{Sandbox: p.Sandbox, Name: name, Rule: TooManyNames, Why: models.AsError(err).Message})
		return
	}
	f.log.Warn("addresses of a name not pinned", "sandbox_id", p.Sandbox, "name", name, "error", err)
}

// ledInside notes that an answer led where the sandbox must not go. The name does not exist when nothing else is left of it.
func (f *Forwarder) ledInside(p Policy, name string, addr netip.Addr, reply *dns.Msg) {
	v := verdict{rule: Rebinding, why: fmt.Sprintf("it leads to %s, which is not public, and no rule of the sandbox's network policy allows that address", addr)}
	for _, rr := range reply.Answer {
		if isAddress(rr) {
			f.cfg.Host.Refused(Refusal{Sandbox: p.Sandbox, Name: name, Rule: v.rule, Why: v.why})
			return
		}
	}
	f.refuse(p, name, reply, v)
}

// refuse answers that there is no such name, which ends a search at once where REFUSED would have the guest try again. Without
// a SOA record nobody keeps that answer (RFC 2308, 5), so that a policy that changes holds for the next question.
func (f *Forwarder) refuse(p Policy, name string, reply *dns.Msg, v verdict) {
	reply.Rcode, reply.Answer = dns.RcodeNameError, nil
	explain(reply, dns.ExtendedErrorCodeBlocked, v.why)
	f.cfg.Host.Refused(Refusal{Sandbox: p.Sandbox, Name: name, Rule: v.rule, Why: v.why})
}

// explain adds an extended error (RFC 8914) to an answer to who understands options.
func explain(reply *dns.Msg, code uint16, text string) {
	if opt := reply.IsEdns0(); opt != nil {
		opt.Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: code, ExtraText: text}}
	}
}
