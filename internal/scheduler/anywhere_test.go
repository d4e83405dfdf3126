package scheduler

import (
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

var stored = Sleeper{Template: "minimal", Digest: "d1", Size: models.Size{VCPUs: 1, MemoryMiB: 256, DiskMiB: 512}, VMM: VMM{"qemu", "7.2", "tcg"}}

// ready is a host that could have what was stored.
func ready(host id.Host, change func(*Host)) Host {
	h := Host{
		ID: host, Reachable: true, Archive: true, VMM: stored.VMM, Capacity: Room{VCPUs: 4, MemoryMiB: 4096, DiskMiB: 8192},
		Templates: []models.Template{{Name: "minimal", Digest: "d1"}},
	}
	if change != nil {
		change(&h)
	}
	return h
}

func TestAnywhereTakesTheBest(t *testing.T) {
	away := ready("host-00000001", func(h *Host) { h.Reachable = false })
	newer := ready("host-00000002", func(h *Host) { h.Templates[0].Digest = "d2" })
	busy := ready("host-00000003", func(h *Host) { h.Allotted.MemoryMiB = 2000 })
	full := ready("host-00000004", func(h *Host) { h.Allotted.DiskMiB = 8192 - 700 }) // 768 are needed
	free := ready("host-00000005", nil)
	closed := ready("host-00000000", func(h *Host) { h.Closed = "is being drained" })
	for _, c := range []struct {
		hosts []Host
		want  id.Host
	}{
		{[]Host{closed, away, newer, busy, full, free}, free.ID},
		{[]Host{away, newer, busy, full}, busy.ID},
		{[]Host{away, newer, full}, newer.ID},
	} {
		if got, err := Anywhere(c.hosts, stored, even); err != nil || got != c.want {
			t.Errorf("%s, %v; want %s", got, err, c.want)
		}
	}
}

func TestAnywhereRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		hosts []Host
		code  models.Code
		says  string
	}{
		"no host":         {nil, models.Unavailable, "no host has registered yet"},
		"none up":         {[]Host{ready("host-00000001", func(h *Host) { h.Reachable = false })}, models.Unavailable, "the host cannot be reached"},
		"drained":         {[]Host{ready("host-00000001", func(h *Host) { h.Closed = "is being drained" })}, models.Unavailable, "host-00000001 is being drained"},
		"no object store": {[]Host{ready("host-00000001", func(h *Host) { h.Archive = false })}, models.Precondition, "host-00000001 has no object store"},
		"another version": {[]Host{ready("host-00000001", func(h *Host) { h.VMM.Version = "10" })}, models.Precondition, "with qemu 10 (tcg), and it was frozen by qemu 7.2 (tcg)"},
		"no template":     {[]Host{ready("host-00000001", func(h *Host) { h.Templates = nil })}, models.Precondition, "does not have the template minimal"},
		"no room":         {[]Host{ready("host-00000001", func(h *Host) { h.Allotted.MemoryMiB = 4000 })}, models.Exhausted, "256 MiB of memory needed, 96 left"},
		"no room on disk": {[]Host{ready("host-00000001", func(h *Host) { h.Allotted.DiskMiB = 8192 - 700 })}, models.Exhausted, "768 MiB of disk needed, 700 left"},
	} {
		if got, err := Anywhere(c.hosts, stored, even); got != "" || models.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
