package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/network/dns"
)

// nameServer is the sandboxes' name server while it serves.
type nameServer struct {
	end   context.CancelFunc
	ended chan struct{}
}

// serveNames answers the guests' questions for names until it is closed.
func serveNames(ctx context.Context, cfg config.Agent, p *parts, log *slog.Logger) (*nameServer, error) {
	upstreams, err := cfg.Upstreams()
	if err != nil {
		return nil, err
	}
	packets, streams, err := p.net.ListenDNS(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the sandboxes' name server: %w", err)
	}
	forwarder := dns.New(dns.Config{
		Host: p.agent.Names(), Upstreams: upstreams, Denied: []netip.Prefix{p.net.Info().Subnet, p.net.Info().SubnetIPv6}, Logger: log,
	})
	// It goes on while calls under way end, so that the end of ctx is not its own.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	n := &nameServer{end: end, ended: make(chan struct{})}
	go func() { defer close(n.ended); forwarder.Serve(life, packets, streams) }()
	return n, nil
}

func (n *nameServer) close() {
	n.end()
	<-n.ended
}
