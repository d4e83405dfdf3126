package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// VMM is what a host runs VMs with. A snapshot can be restored by an equal one alone.
type VMM struct {
	Driver, Version, Accelerator string
}

// String names it for people.
func (v VMM) String() string { return fmt.Sprintf("%s %s (%s)", v.Driver, v.Version, v.Accelerator) }

// Sleeper is a sandbox that is on no host.
type Sleeper struct {
	Template string
	Digest   string // of the template, that it was made from
	Size     models.Size
	VMM      VMM // that it was frozen by
}

// Anywhere chooses the host on which a sandbox that is in the object store goes on: of those that can have it and have room the one with the template as it was, if
// there is one, and then the one with the most memory left. Its disk and its frozen memory take room on the disk. It fails with Unavailable when no host can be
// reached or takes sandboxes, Precondition when none of those could have it, and Exhausted with what is short on the best of them.
func Anywhere(hosts []Host, s Sleeper, over Overcommit) (id.Host, error) {
	fitting, err := able(hosts, s)
	if err != nil {
		return "", err
	}
	size := models.Size{VCPUs: s.Size.VCPUs, MemoryMiB: s.Size.MemoryMiB, DiskMiB: s.Size.DiskMiB + s.Size.MemoryMiB}
	for _, h := range fitting {
		if h.fit(h.need(size), 1, over) == nil {
			return h.ID, nil
		}
	}
	return "", noRoom(fitting, 1, over, func(h *Host) Room { return h.need(size) })
}

// able returns the hosts that could have the sandbox, the best first.
func able(hosts []Host, s Sleeper) ([]*Host, error) {
	open, err := taking(hosts)
	if err != nil {
		return nil, err
	}
	var fitting []*Host
	var why []string
	for _, h := range open {
		if reason := h.refuses(s); reason != "" {
			why = append(why, fmt.Sprintf("%s %s", h.ID, reason))
		} else {
			fitting = append(fitting, h)
		}
	}
	if fitting == nil {
		slices.Sort(why)
		return nil, models.Errorf(models.Precondition, "the sandbox can go on on no host: %s", strings.Join(why[:min(named, len(why))], "; "))
	}
	slices.SortFunc(fitting, func(x, y *Host) int {
		return cmp.Or(cmp.Compare(y.has(s), x.has(s)), cmp.Compare(y.left(), x.left()), cmp.Compare(x.ID, y.ID))
	})
	return fitting, nil
}

// refuses says why a host could not have the sandbox, "" where it could. Whether processor and template are the same the host itself finds out.
func (h *Host) refuses(s Sleeper) string {
	switch {
	case !h.Archive:
		return "has no object store"
	case h.VMM != s.VMM:
		return fmt.Sprintf("runs VMs with %s, and it was frozen by %s", h.VMM, s.VMM)
	case !slices.ContainsFunc(h.Templates, func(t models.Template) bool { return t.Name == s.Template }):
		return "does not have the template " + s.Template
	}
	return ""
}

// has is 1 where the host has the template as it was, else 0: it may have kept that beside the current one.
func (h *Host) has(s Sleeper) int {
	if slices.ContainsFunc(h.Templates, func(t models.Template) bool { return t.Name == s.Template && t.Digest == s.Digest }) {
		return 1
	}
	return 0
}

func (h *Host) left() int64 { return h.Capacity.MemoryMiB - h.Allotted.MemoryMiB }
