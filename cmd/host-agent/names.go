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
	end    context.CancelFunc
	served chan error
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
		Host: p.agent.Names(), Upstreams: upstreams, Denied: []netip.Prefix{p.net.Info().Subnet}, Logger: log,
	})
	// It goes on while calls under way end, so that the end of ctx is not its own.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	n := &nameServer{end: end, served: make(chan error, 1)}
	go func() {
		err := forwarder.Serve(life, packets, streams)
		if err != nil {
			log.Error("the sandboxes' name server has ended", "error", err)
		}
		n.served <- err
	}()
	return n, nil
}

func (n *nameServer) close() error {
	n.end()
	return <-n.served
}
