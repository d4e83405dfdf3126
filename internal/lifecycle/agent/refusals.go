package agent

import (
	"context"
	"path/filepath"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/journal"
)

// journalEvery is how often what was refused is saved: so much of it the end of an agent by force may take.
const journalEvery = 5 * time.Second

func (a *Agent) journalPath(sb id.Sandbox) string { return filepath.Join(a.dir(sb), "refusals.json") }

// recallJournal reads what an earlier agent saved of a sandbox's refusals.
func (a *Agent) recallJournal(s *sandbox) {
	kept, err := journal.Load(a.journalPath(s.id))
	if err != nil {
		a.log.Warn("journal of refusals begins anew", "sandbox_id", s.id, "error", err)
	}
	s.journal = kept
}

// keepJournals takes in what the network refused, and saves all journals now and then, until ctx ends.
func (a *Agent) keepJournals(ctx context.Context) {
	tick := time.NewTicker(journalEvery)
	defer tick.Stop()
	refusals := a.cfg.Network.Refusals()
	for {
		select {
		case r, open := <-refusals:
			if !open {
				refusals = nil // the network is closed; ctx ends soon
				continue
			}
			a.note(r.Sandbox, refusal(r))
		case <-tick.C:
			a.saveJournals()
		case <-ctx.Done():
			return
		}
	}
}

func refusal(r network.Refusal) models.NetworkRefusal {
	return models.NetworkRefusal{
		Last: r.At.UTC(), Protocol: r.Protocol, To: r.To, Rule: r.Rule, Why: why(r.Rule), Count: int64(r.Count),
	}
}

// note adds a refusal to the journal of its sandbox, if that is still there.
func (a *Agent) note(sb id.Sandbox, r models.NetworkRefusal) {
	if a.cfg.Refused != nil {
		a.cfg.Refused(r.Rule, r.Count)
	}
	if s, err := a.find(sb); err == nil {
		s.journal.Add(r)
	}
}

func (a *Agent) saveJournals() {
	for _, s := range a.all() {
		select {
		case s.turn <- struct{}{}: // so that its folder is not removed meanwhile
			a.saveJournal(s)
			s.release()
		default:
		}
	}
}

func (a *Agent) saveJournal(s *sandbox) {
	if !s.view().State.lives() {
		return
	}
	if err := s.journal.Save(a.journalPath(s.id)); err != nil {
		a.log.Warn("journal of refusals not saved", "sandbox_id", s.id, "error", err)
	}
}

// Network is what a sandbox's network carried and refused.
type Network struct {
	Policy   models.NetworkPolicy // in force
	IPv6     models.NetworkIPv6
	Counters models.NetworkCounters
	Refusals models.NetworkRefusals
}

// Network tells of the network of a running or paused sandbox.
func (a *Agent) Network(sb id.Sandbox) (Network, error) {
	s, err := a.find(sb)
	if err != nil {
		return Network{}, err
	}
	v := s.view()
	if !v.State.lives() {
		return Network{}, v.isNot(Running)
	}
	c, err := a.cfg.Network.Counters(sb)
	if err != nil {
		return Network{}, err
	}
	addr, why, err := a.cfg.Network.IPv6(sb)
	if err != nil {
		return Network{}, err
	}
	return Network{
		Policy: v.Network, IPv6: models.NetworkIPv6{Address: addr, Why: why}, Refusals: s.journal.Refusals(),
		Counters: models.NetworkCounters{
			SentPackets: c.SentPackets, SentBytes: c.SentBytes,
			ReceivedPackets: c.ReceivedPackets, ReceivedBytes: c.ReceivedBytes, Dropped: c.Refused,
		},
	}, nil
}
