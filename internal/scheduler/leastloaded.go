package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// warmth is how much fuller a host may be than another one and still be taken for the sake of a template that it need not boot.
const warmth = 0.1

// named is how many hosts an error tells of: with a thousand of them nobody reads more.
const named = 3

// LeastLoaded places on the host that is the least full afterwards, by whatever of vCPUs, memory and disk it is the fullest by. One that makes sandboxes of the template
// without booting counts as a little emptier. It fails with Unavailable when no host can be reached or takes sandboxes, NotFound for a template that none of them has, Invalid
// for a size that none could have, and Exhausted with what is short on those that have the most left.
func LeastLoaded(hosts []Host, r Request, over Overcommit) (Placement, error) {
	able, err := having(hosts, r.Template)
	if err != nil {
		return Placement{}, err
	}
	var best Placement
	var least float64
	var refused error
	for _, h := range able {
		p, err := h.place(r, over)
		if err != nil {
			if refused == nil || models.CodeOf(err) == models.Exhausted {
				refused = err
			}
			continue
		}
		if load := h.loadWith(r.Template, p.Size, over); best.Host == "" || load < least || load == least && h.ID < best.Host {
			best, least = p, load
		}
	}
	switch {
	case best.Host != "":
		return best, nil
	case models.CodeOf(refused) == models.Exhausted:
		return Placement{}, noRoom(able, 1, over, func(h *Host) Room { return h.need(h.complete(r)) })
	}
	return Placement{}, refused
}

// having returns the hosts that take sandboxes of a template.
func having(hosts []Host, name string) ([]*Host, error) {
	open, err := taking(hosts)
	if err != nil {
		return nil, err
	}
	able := make([]*Host, 0, len(open))
	for _, h := range open {
		if _, has := h.template(name); has {
			able = append(able, h)
		}
	}
	if len(able) == 0 {
		return nil, noTemplate(name, open)
	}
	return able, nil
}

// taking returns the hosts that take new sandboxes now.
func taking(hosts []Host) ([]*Host, error) {
	open := make([]*Host, 0, len(hosts))
	var closed []string
	for i := range hosts {
		switch h := &hosts[i]; {
		case h.Reachable && h.Closed == "":
			open = append(open, h)
		case h.Reachable:
			closed = append(closed, string(h.ID)+" "+h.Closed)
		}
	}
	switch {
	case len(open) > 0:
		return open, nil
	case len(hosts) == 0:
		return nil, models.Errorf(models.Unavailable, "no host has registered yet").WithHint("start the host agent, or try again in a few seconds")
	case closed == nil && len(hosts) == 1:
		return nil, models.Errorf(models.Unavailable, "the host cannot be reached").WithHint("try again in a few seconds")
	case closed == nil:
		return nil, models.Errorf(models.Unavailable, "no host can be reached").WithHint("try again in a few seconds")
	}
	slices.Sort(closed)
	return nil, models.Errorf(models.Unavailable, "no host takes new sandboxes now: %s", strings.Join(closed[:min(named, len(closed))], "; ")).
		WithHint("try again later, or ask who runs this service")
}

// loadWith is how full the host is with one more sandbox, from 0 to 1, less what a warm template is worth.
func (h *Host) loadWith(template string, s models.Size, over Overcommit) float64 {
	need, load := h.need(s), 0.0
	for _, k := range h.kinds(need, over) {
		load = max(load, float64(k.got+k.want)/max(1, float64(k.has)*k.factor))
	}
	if t, _ := h.template(template); t.Warm {
		load -= warmth
	}
	return load
}

// noRoom says of the hosts that have the most memory left what n sandboxes that need the same lack there.
func noRoom(hosts []*Host, n int, over Overcommit, need func(*Host) Room) error {
	hosts = slices.Clone(hosts)
	slices.SortFunc(hosts, func(x, y *Host) int { return cmp.Or(cmp.Compare(y.left(), x.left()), cmp.Compare(x.ID, y.ID)) })
	short := make([]string, 0, len(hosts))
	fits := false
	for _, h := range hosts {
		what, fitsEmpty := h.lacks(need(h), n, over)
		fits = fits || fitsEmpty
		short = append(short, fmt.Sprintf("%s: %s", h.ID, what))
	}
	if len(hosts) == 1 {
		return hosts[0].fit(need(hosts[0]), n, over)
	}
	return exhausted("no host has room for it; "+strings.Join(short[:min(named, len(short))], "; "), fits)
}

// exhausted is the error of what fits nowhere; fits tells whether it would on a host that is empty.
func exhausted(message string, fits bool) error {
	err := models.Errorf(models.Exhausted, "%s", message)
	if !fits {
		return err.WithHint("the host is too small for it, also when empty: ask for less")
	}
	return err.WithHint("destroy sandboxes that are not needed, or ask for less")
}
