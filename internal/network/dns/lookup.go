package dns

import (
	"context"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxNegative is the longest that the absence of a name is believed.
	maxNegative = time.Minute
	// staleFor is how long after its end an answer is still given when no upstream answers, staleTTL the life that it then
	// has, and staleAfter how long upstreams are waited for when there is such an answer: RFC 8767, 5.
	staleFor, staleTTL, staleAfter = time.Hour, 30 * time.Second, 1800 * time.Millisecond
	// maxChain is the most aliases that lead from a name to its records.
	maxChain = 16
)

// found is what an upstream knows of a question.
type found struct {
	rcode   int
	answer  []dns.RR // the aliases from the name asked for, and the records that they lead to
	learned time.Time
	life    time.Duration
	stale   bool
	size    int
}

// records returns the records for a guest that wrote the name as asked, with what is left of their lives.
func (r found) records(asked string) []dns.RR {
	out := make([]dns.RR, len(r.answer))
	age := time.Since(r.learned)
	for i, rr := range r.answer {
		out[i] = dns.Copy(rr)
		h := out[i].Header()
		left := min(time.Duration(h.Ttl)*time.Second-age, maxTTL)
		if r.stale {
			left = staleTTL
		}
		h.Ttl = uint32(max(0, left) / time.Second)
		if strings.EqualFold(h.Name, asked) {
			h.Name = asked
		}
	}
	return out
}

// lookUp answers a question from what is kept for the sandbox, or asks upstream.
func (f *Forwarder) lookUp(ctx context.Context, c *client, q dns.Question, name string) (found, error) {
	key := cacheKey{name, q.Qtype}
	kept, ok := c.cache.get(key)
	if ok && time.Since(kept.learned) < kept.life {
		return kept, nil
	}
	ask := ctx
	if ok {
		var cancel context.CancelFunc
		ask, cancel = context.WithTimeout(ctx, staleAfter)
		defer cancel()
	}
	msg, err := f.upstreams.exchange(ask, dns.Question{Name: dns.Fqdn(name), Qtype: q.Qtype, Qclass: dns.ClassINET})
	if err != nil && ok && time.Since(kept.learned) < kept.life+staleFor {
		kept.stale = true
		return kept, nil
	}
	if err != nil {
		return found{}, err
	}
	got := understand(msg, q.Qtype)
	c.cache.put(key, got)
	return got, nil
}

// understand takes out of an upstream's answer what belongs to the question: the aliases that lead from its name, and the records
// of the type at their end. Whatever else it says, nobody asked for.
func understand(msg *dns.Msg, qtype uint16) found {
	got := found{rcode: msg.Rcode, learned: time.Now(), life: maxTTL}
	name := msg.Question[0].Name
	for range maxChain {
		alias := ""
		for _, rr := range msg.Answer {
			if !strings.EqualFold(rr.Header().Name, name) || rr.Header().Class != dns.ClassINET {
				continue
			}
			cname, isAlias := rr.(*dns.CNAME)
			if rr.Header().Rrtype != qtype && (!isAlias || alias != "") {
				continue
			}
			if isAlias && qtype != dns.TypeCNAME {
				alias = cname.Target
			}
			withoutHints(rr)
			got.answer = append(got.answer, rr)
			got.life = min(got.life, time.Duration(rr.Header().Ttl)*time.Second)
		}
		if alias == "" {
			break
		}
		name = alias
	}
	if msg.Rcode == dns.RcodeNameError || len(got.answer) == 0 {
		got.life = min(got.life, negativeLife(msg))
	}
	for _, rr := range got.answer {
		got.size += dns.Len(rr)
	}
	return got
}

// negativeLife is how long the absence of what was asked for may be believed: RFC 2308, 5.
func negativeLife(msg *dns.Msg) time.Duration {
	for _, rr := range msg.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegative)
		}
	}
	return 0
}

// withoutHints takes the addresses out of a service binding (RFC 9460): a client would connect to them, and only those of
// A records are pinned.
func withoutHints(rr dns.RR) {
	var svcb *dns.SVCB
	switch rr := rr.(type) {
	case *dns.HTTPS:
		svcb = &rr.SVCB
	case *dns.SVCB:
		svcb = rr
	default:
		return
	}
	kept := svcb.Value[:0]
	for _, v := range svcb.Value {
		if v.Key() != dns.SVCB_IPV4HINT && v.Key() != dns.SVCB_IPV6HINT {
			kept = append(kept, v)
		}
	}
	svcb.Value = kept
}
