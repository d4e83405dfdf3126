package network_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/dns"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// nameHost hands what the forwarder decides to the network, under one policy.
type nameHost struct {
	*network.Network
	policy models.NetworkPolicy
}

func (h nameHost) Policy(addr netip.Addr) (dns.Policy, bool) {
	sandbox, ok := h.SandboxAt(addr)
	return dns.Policy{Sandbox: sandbox, NetworkPolicy: h.policy}, ok
}

func (h nameHost) Pin(ctx context.Context, p dns.Policy, name string, addrs []netip.Addr, ttl time.Duration) error {
	return h.Network.Pin(ctx, p.Sandbox, name, addrs, ttl)
}

func (h nameHost) Holds(id.Sandbox) bool { return true }
func (h nameHost) Refused(dns.Refusal)   {}

// TestNamesOpenAddresses: with the internet off a guest reaches what an allowed name leads to, once it was answered and not before.
func TestNamesOpenAddresses(t *testing.T) {
	w := newWorld(t)
	n := w.open("")
	allow, err := models.ParseDestinations("allow", []string{"allowed.example"})
	w.must(err)
	g := w.bootWith(n, alice, network.Policy{Names: true})
	upstream := w.upstream(map[string]string{"allowed.example.": peerAddress, "other.example.": peerAddress})
	w.forward(n, dns.Config{
		Host: nameHost{n, models.NetworkPolicy{Allow: allow}}, Upstreams: []netip.AddrPort{upstream}, Logger: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, kind, address string) (conn net.Conn, err error) {
			err = netns.Do(w.host, func() error {
				conn, err = new(net.Dialer).DialContext(ctx, kind, address)
				return err
			})
			return conn, err
		},
	})
	service := w.listen(w.peer, peerAddress+":9000")
	g.say(peerAddress+":9000", "before any name")
	if m := g.ask("other.example."); m.Rcode != mdns.RcodeNameError {
		t.Errorf("a name that is not allowed: %v", m)
	}
	g.say(peerAddress+":9000", "after a name that is refused")
	if m := g.ask("allowed.example."); len(m.Answer) != 1 {
		t.Fatalf("a name that is allowed: %v", m)
	}
	g.say(peerAddress+":9000", "after the answer")
	w.wantDatagram(service, "after the answer") // and nothing before it
}

// upstream serves names at the peer, for as long as the test runs.
func (w *world) upstream(zone map[string]string) netip.AddrPort {
	w.Helper()
	conn := w.listen(w.peer, peerAddress+":5300")
	server := &mdns.Server{PacketConn: conn, Handler: mdns.HandlerFunc(func(out mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg).SetReply(q)
		rr, err := mdns.NewRR(q.Question[0].Name + " 60 IN A " + zone[mdns.CanonicalName(q.Question[0].Name)])
		if err == nil {
			m.Answer = append(m.Answer, rr)
		}
		_ = out.WriteMsg(m) // who has gone needs no answer
	})}
	go func() { _ = server.ActivateAndServe() }() // ends with its socket
	return netip.MustParseAddrPort(peerAddress + ":5300")
}

// forward runs a forwarder for the guests until the test ends.
func (w *world) forward(n *network.Network, cfg dns.Config) {
	w.Helper()
	packets, streams, err := n.ListenDNS(w.Context())
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); dns.New(cfg).Serve(ctx, packets, streams) }()
	w.Cleanup(func() { cancel(); <-ended })
}

// ask asks the gateway for a name's addresses.
func (g *guest) ask(name string) *mdns.Msg {
	g.Helper()
	query, err := new(mdns.Msg).SetQuestion(name, mdns.TypeA).Pack()
	g.must(err)
	g.say(g.link.Gateway.String()+":53", string(query))
	answer := new(mdns.Msg)
	g.must(answer.Unpack(g.wantPacket(unix.IPPROTO_UDP).payload[8:]))
	return answer
}
