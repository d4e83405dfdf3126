// Package dns is the name server of the sandboxes of a host: a forwarder that answers what each sandbox's policy allows.
//
// A guest asks at its gateway's port 53 and is known by its address, which the network has checked. For a name that its
// policy allows by a rule, the addresses in the answer are pinned, so that the sandbox may reach them, before the
// guest gets the answer. Names that are not allowed do not exist for it, and the answer says why (RFC 8914). Addresses that
// no sandbox may reach, and private ones that its policy does not allow, are taken out of answers (DNS rebinding). What is asked for IPv6 has an answer
// where the policy allows that, and else an empty one.
//
// Nothing that a guest sends holds up another: what is under way, cached and connected is bounded for each sandbox, as are
// the queries and bytes in a second. Upstream servers are tried in turn; while none answers, answers that have
// expired are given for a while (RFC 8767).
package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// ErrChanged is what Host.Pin returns for a policy that is not in force any more.
var ErrChanged = errors.New("the sandbox's network policy has changed meanwhile")

// Host is what a forwarder needs of its host. None of its methods may block for long.
type Host interface {
	// Policy returns whose address it is, with the policy in force, or false when it is no sandbox's.
	Policy(addr netip.Addr) (Policy, bool)
	// Pin lets the sandbox reach addrs, which name leads to, for ttl, unless p is not in force any more: ErrChanged.
	Pin(ctx context.Context, p Policy, name string, addrs []netip.Addr, ttl time.Duration) error
	// Holds tells whether the host has a sandbox.
	Holds(sandbox id.Sandbox) bool
	// Refused takes note of what was refused.
	Refused(r Refusal)
}

// Policy is what a sandbox may ask.
type Policy struct {
	Sandbox id.Sandbox
	models.NetworkPolicy
}

// Refusal is a name that was not answered.
type Refusal struct {
	Sandbox id.Sandbox
	Name    string // without the last dot
	Rule    Rule
	Why     string // for users
}

// Rule is what refused a name.
type Rule string

// The rules.
const (
	NameDenied   Rule = "name_denied"
	NameUnlisted Rule = "name_not_allowed"
	Rebinding    Rule = "name_leads_inside"
	TooManyNames Rule = "too_many_names"
)

// Config is what a Forwarder is made of. Only Host is required.
type Config struct {
	Host      Host
	Upstreams []netip.AddrPort // empty: those of ResolvConf
	// ResolvConf is read again when it changes; "" means /etc/resolv.conf.
	ResolvConf string
	// Denied are ranges beside models.AlwaysDenied to which no answer may lead.
	Denied []netip.Prefix
	// Dial connects to upstreams; nil means a net.Dialer.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Logger *slog.Logger // nil: slog.Default()
}

// Forwarder answers sandboxes. Its methods may be called at the same time.
type Forwarder struct {
	cfg       Config
	log       *slog.Logger
	upstreams *upstreams
	clients   *clients
}

// New returns a forwarder. It reads and asks nothing before Serve.
func New(cfg Config) *Forwarder {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	return &Forwarder{
		cfg: cfg, log: cfg.Logger, clients: newClients(cfg.Host.Holds),
		upstreams: newUpstreams(cfg.Upstreams, cfg.ResolvConf, cfg.Dial, cfg.Logger),
	}
}

// Serve answers what comes in until ctx ends or both are closed, then closes them and waits for what is under way.
func (f *Forwarder) Serve(ctx context.Context, packets net.PacketConn, streams net.Listener) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _, _ = packets.Close(), streams.Close() }) // their loops end with it
	defer stop()
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { f.servePackets(ctx, packets, &wg) })
	wg.Go(func() { f.serveStreams(ctx, streams, &wg) })
	wg.Wait()
}
