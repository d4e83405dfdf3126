package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// patience bounds what must happen, on a machine that may be busy.
const patience = 20 * time.Second

// Where the sandboxes of a test ask from.
var (
	one = netip.MustParseAddr("127.0.0.2")
	two = netip.MustParseAddr("127.0.0.3")
)

// fakeHost is a host with sandboxes at loopback addresses.
type fakeHost struct {
	mu       sync.Mutex // guards what follows
	policies map[netip.Addr]Policy
	pinned   map[string][]netip.Addr // by sandbox and name
	ttls     []time.Duration
	refusals []Refusal
	pinning  func(Policy) error
}

func (h *fakeHost) Policy(addr netip.Addr) (Policy, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.policies[addr]
	return p, ok
}

func (h *fakeHost) Holds(sandbox id.Sandbox) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.policies {
		if p.Sandbox == sandbox {
			return true
		}
	}
	return false
}

func (h *fakeHost) Pin(ctx context.Context, p Policy, name string, addrs []netip.Addr, ttl time.Duration) error {
	if deadline, bounded := ctx.Deadline(); !bounded || time.Until(deadline) > answerLimit {
		return errors.New("work on a query has no end")
	}
	h.mu.Lock()
	pinning := h.pinning
	h.mu.Unlock()
	if pinning != nil {
		if err := pinning(p); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	key := string(p.Sandbox) + " " + name
	h.pinned[key] = append(h.pinned[key], addrs...)
	h.ttls = append(h.ttls, ttl)
	return nil
}

func (h *fakeHost) Refused(r Refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refusals = append(h.refusals, r)
}

// onPin has f called at the begin of each Pin, whose error is the Pin's.
func (h *fakeHost) onPin(f func(Policy) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pinning = f
}

// clear forgets what was pinned and refused.
func (h *fakeHost) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pinned, h.refusals = map[string][]netip.Addr{}, nil
}

// lives returns for how long there were pins.
func (h *fakeHost) lives() []time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ttls)
}

// set gives the sandbox at addr a policy.
func (h *fakeHost) set(t testing.TB, addr netip.Addr, internet bool, allow, deny []string) {
	t.Helper()
	p := Policy{Sandbox: id.Sandbox("sb-0000000" + addr.String()[len("127.0.0."):])}
	p.Internet = internet
	var err error
	if p.Allow, err = models.ParseDestinations("allow", allow); err != nil {
		t.Fatal(err)
	}
	if p.Deny, err = models.ParseDestinations("deny", deny); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p.Generation = h.policies[addr].Generation + 1
	h.policies[addr] = p
}

// allowIPv6 has the policy of the sandbox at addr allow IPv6.
func (h *fakeHost) allowIPv6(addr netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.policies[addr]
	p.IPv6 = true
	h.policies[addr] = p
}

func (h *fakeHost) pins(sandbox id.Sandbox, name string) []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.pinned[string(sandbox)+" "+name])
}

// refused returns the rules that refused a name of a sandbox.
func (h *fakeHost) refused(sandbox id.Sandbox, name string) (rules []Rule) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.refusals {
		if r.Sandbox == sandbox && r.Name == name {
			rules = append(rules, r.Rule)
		}
	}
	return rules
}

// upstream is a real name server on loopback, of which each name is answered by a function.
type upstream struct {
	address netip.AddrPort
	mu      sync.Mutex // guards what follows
	zone    map[string]func(q *dns.Msg, overTCP bool) *dns.Msg
	asked   []dns.Question
	servers []*dns.Server
}

func startUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{zone: map[string]func(*dns.Msg, bool) *dns.Msg{}}
	packets, streams := listen(t)
	u.address = streams.Addr().(*net.TCPAddr).AddrPort()
	u.servers = []*dns.Server{{PacketConn: packets, Handler: u}, {Listener: streams, Handler: u}}
	for _, s := range u.servers {
		go func() { _ = s.ActivateAndServe() }() // ends with Shutdown
	}
	t.Cleanup(u.stop)
	return u
}

func (u *upstream) stop() {
	for _, s := range u.servers {
		if s.PacketConn != nil {
			_ = s.PacketConn.Close()
		} else {
			_ = s.Listener.Close()
		}
	}
}

// listen opens both sockets on one port.
func listen(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for {
		streams, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if packets, err := net.ListenPacket("udp4", streams.Addr().String()); err == nil {
			return packets, streams
		}
		streams.Close()
	}
}

func (u *upstream) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	u.mu.Lock()
	u.asked = append(u.asked, q.Question[0])
	answer := u.zone[dns.CanonicalName(q.Question[0].Name)]
	u.mu.Unlock()
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
	if answer != nil {
		m = answer(q, overTCP)
	}
	if m != nil {
		_ = w.WriteMsg(m)
	}
}

// has answers name with records in zone-file form, of whatever type is asked for.
func (u *upstream) has(t testing.TB, name string, records ...string) {
	t.Helper()
	var list []dns.RR
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, rr)
	}
	u.answers(name, func(q *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Answer = list
		return m
	})
}

func (u *upstream) answers(name string, answer func(q *dns.Msg, overTCP bool) *dns.Msg) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.zone[dns.CanonicalName(name)] = answer
}

// times returns how often a name was asked for.
func (u *upstream) times(name string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, q := range u.asked {
		if dns.CanonicalName(q.Name) == dns.CanonicalName(name) {
			n++
		}
	}
	return n
}

// rig is a forwarder that serves on loopback, with one upstream.
type rig struct {
	testing.TB
	host      *fakeHost
	upstream  *upstream
	forwarder *Forwarder
	address   string
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := &rig{TB: t, host: &fakeHost{policies: map[netip.Addr]Policy{}, pinned: map[string][]netip.Addr{}}, upstream: startUpstream(t)}
	cfg := Config{Host: r.host, Upstreams: []netip.AddrPort{r.upstream.address}, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	r.forwarder = New(cfg)
	packets, streams := listen(t)
	r.address = streams.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); r.forwarder.Serve(ctx, packets, streams) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("the forwarder does not end")
		}
	})
	return r
}

// connect opens a connection from a sandbox.
func (r *rig) connect(network string, from netip.Addr) *dns.Conn {
	r.Helper()
	dialer := net.Dialer{Timeout: patience}
	if network == "udp" {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	} else {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	conn, err := dialer.Dial(network, r.address)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		r.Fatal(err)
	}
	return &dns.Conn{Conn: conn, UDPSize: 4096}
}

// ask asks from a sandbox over UDP, again when there is no answer as resolvers do, and returns the answer.
func (r *rig) ask(from netip.Addr, name string, qtype uint16) *dns.Msg {
	r.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(udpSize, false)
	conn := r.connect("udp", from)
	for range 4 {
		if err := conn.WriteMsg(q); err != nil {
			r.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(answerLimit + time.Second)); err != nil {
			r.Fatal(err)
		}
		if m, err := conn.ReadMsg(); err == nil && m.Id == q.Id && m.Response {
			return m
		}
	}
	r.Fatalf("no answer to %v", q.Question)
	return nil
}

func (r *rig) exchange(conn *dns.Conn, q *dns.Msg) *dns.Msg {
	r.Helper()
	if err := conn.WriteMsg(q); err != nil {
		r.Fatal(err)
	}
	m, err := conn.ReadMsg()
	if err != nil {
		r.Fatalf("no answer to %v: %v", q.Question, err)
	}
	if m.Id != q.Id || !m.Response {
		r.Fatalf("the answer is of another question: %v", m)
	}
	return m
}

// addresses returns those in an answer.
func addresses(m *dns.Msg) (out []string) {
	for _, rr := range m.Answer {
		if addr, ok := addressIn(rr); ok {
			out = append(out, addr.String())
		}
	}
	return out
}

// reason returns the extended error of an answer.
func reason(m *dns.Msg) (code int, text string) {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return int(e.InfoCode), e.ExtraText
			}
		}
	}
	return -1, ""
}
