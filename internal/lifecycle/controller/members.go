package controller

import (
	"context"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
)

// membersEvery is how often a fleet looks which hosts have joined or were removed.
const membersEvery = 2 * time.Second

// authorityKey is the name of the signing key that is the seed of the authority of hosts.
const authorityKey = "hosts"

// Authority returns what certifies hosts and control planes. All replicas have the same one, from the database.
func (f *Fleet) Authority(ctx context.Context) (*mtls.Authority, error) {
	f.mu.Lock()
	made := f.authority
	f.mu.Unlock()
	if made != nil {
		return made, nil
	}
	seed, err := f.store.SigningKey(ctx, authorityKey)
	if err != nil {
		return nil, err
	}
	if made, err = mtls.NewAuthority(seed, mtls.HostLife); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.authority == nil {
		f.authority = made
	}
	return f.authority, nil
}

// followMembers keeps the fleet as the store says, until ctx ends. While the store is away it stays as it is.
func (f *Fleet) followMembers(ctx context.Context) {
	for ctx.Err() == nil {
		members, err := f.store.JoinedHosts(ctx)
		if err == nil && f.joins(members) {
			var authority *mtls.Authority
			if authority, err = f.Authority(ctx); err == nil {
				f.admit(ctx, authority, members)
			}
		}
		if err != nil && ctx.Err() == nil {
			f.log.Warn("hosts that have joined not looked up", "error", err)
		}
		f.dismiss(members, err)
		pause(ctx, membersEvery)
	}
}

// joins tells whether one of them is not in the fleet.
func (f *Fleet) joins(members []db.Member) bool {
	return slices.ContainsFunc(members, func(m db.Member) bool { return !f.has(m) })
}

func (f *Fleet) has(m db.Member) bool {
	return slices.ContainsFunc(f.all(), func(h *host) bool { return h.joined == m.ID && h.address == m.Address })
}

// admit takes in the hosts that are not in the fleet.
func (f *Fleet) admit(ctx context.Context, authority *mtls.Authority, members []db.Member) {
	for _, m := range members {
		if f.has(m) {
			continue
		}
		client, err := hostclient.DialTLS(m.Address, authority.Client(m.ID))
		if err != nil {
			f.log.Warn("host that has joined not connected", "host_id", m.ID, "error", err)
			continue
		}
		h := f.newHost(m.Address, client)
		h.joined, h.id = m.ID, m.ID
		f.mu.Lock()
		f.hosts = append(slices.Clone(f.hosts), h)
		f.mu.Unlock()
		f.log.Info("host has joined", "host_id", m.ID, "agent", m.Address)
		f.wg.Go(func() { h.run(ctx) })
	}
}

// dismiss lets go of the hosts that have joined and are no members any more, unless err says that this is not known.
func (f *Fleet) dismiss(members []db.Member, err error) {
	if err != nil {
		return
	}
	f.mu.Lock()
	var stay, gone []*host
	for _, h := range f.hosts {
		if h.joined == "" || slices.Contains(members, db.Member{ID: h.joined, Address: h.address}) {
			stay = append(stay, h)
		} else {
			gone = append(gone, h)
		}
	}
	f.hosts = stay
	f.mu.Unlock()
	for _, h := range gone {
		h.end()
		_ = h.client.Close() // once: it is in the fleet no more
		f.log.Info("host let go", "host_id", h.joined, "agent", h.address)
	}
}

// renew gives a host that has joined another certificate, long before the end of the one that it has.
func (h *host) renew(ctx context.Context) error {
	shown := h.client.Certificate()
	if h.joined == "" || shown == nil || !mtls.Due(shown, time.Now()) {
		return nil
	}
	authority, err := h.fleet.Authority(ctx)
	if err != nil {
		return err
	}
	if err := h.client.Renew(ctx, func(request []byte) ([]byte, error) { return authority.SignHost(request, h.joined) }); err != nil {
		return err
	}
	h.log.Info("host's certificate renewed", "host_id", h.joined, "until", h.client.Certificate().NotAfter)
	return nil
}
