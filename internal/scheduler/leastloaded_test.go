package scheduler

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestLeastLoadedTakesTheBest(t *testing.T) {
	host := func(n int, change func(*Host)) Host {
		h := oneHost()
		h.ID = id.Host(fmt.Sprintf("host-%08d", n))
		h.Allotted = Room{VCPUs: 1, MemoryMiB: 1024, DiskMiB: 2048} // a quarter of each
		if change != nil {
			change(&h)
		}
		return h
	}
	away := host(1, func(h *Host) { h.Reachable, h.Allotted = false, Room{} })
	drained := host(2, func(h *Host) { h.Closed, h.Allotted = "is being drained", Room{} })
	other := host(3, func(h *Host) { h.Templates, h.Allotted = h.Templates[:1], Room{} })
	plain := host(4, nil)
	processors := host(5, func(h *Host) { h.Allotted.VCPUs = 2 })
	disk := host(6, func(h *Host) { h.Allotted.DiskMiB = 7000 })
	warm := host(7, func(h *Host) { h.Templates[1].Warm, h.Allotted.MemoryMiB = true, 1300 })
	full := host(8, func(h *Host) { h.Templates[1].Warm, h.Allotted.MemoryMiB = true, 3000 })
	large := host(9, func(h *Host) { h.Capacity.VCPUs, h.Capacity.MemoryMiB, h.Capacity.DiskMiB = 8, 8192, 1<<20 })
	for name, c := range map[string]struct {
		hosts []Host
		want  Host
	}{
		"the only one that can":         {[]Host{away, drained, other, plain}, plain},
		"the first of equals":           {[]Host{host(9, nil), plain}, plain},
		"by processors":                 {[]Host{processors, plain}, plain},
		"by disk":                       {[]Host{disk, plain}, plain},
		"by share, not by amount":       {[]Host{plain, large}, large},
		"warm, and hardly fuller":       {[]Host{plain, warm}, warm},
		"warm, and much fuller":         {[]Host{plain, full}, plain},
		"fuller in one thing than both": {[]Host{disk, processors}, processors},
	} {
		got, err := LeastLoaded(c.hosts, Request{Template: "minimal", Size: models.Size{VCPUs: 1, MemoryMiB: 128}}, even)
		if err != nil || got.Host != c.want.ID {
			t.Errorf("%s: %+v, %v; want %s", name, got, err, c.want.ID)
		}
	}
}

func TestLeastLoadedRefuses(t *testing.T) {
	host := func(n int, change func(*Host)) Host {
		h := oneHost()
		h.ID = id.Host(fmt.Sprintf("host-%08d", n))
		change(&h)
		return h
	}
	away := host(1, func(h *Host) { h.Reachable = false })
	drained := host(2, func(h *Host) { h.Closed = "is being drained" })
	memory := host(3, func(h *Host) { h.Allotted.MemoryMiB = 4000 })
	disk := host(4, func(h *Host) { h.Allotted.DiskMiB = 8000 })
	small := host(5, func(h *Host) { h.Capacity.VCPUs = 0 })
	bare := host(6, func(h *Host) { h.Templates = nil })
	for name, c := range map[string]struct {
		hosts []Host
		r     Request
		code  models.Code
		says  []string
	}{
		"none up":       {[]Host{away, away}, Request{Template: "minimal"}, models.Unavailable, []string{"no host can be reached"}},
		"drained":       {[]Host{away, drained}, Request{Template: "minimal"}, models.Unavailable, []string{"host-00000002 is being drained"}},
		"template away": {[]Host{bare, memory}, Request{Template: "none"}, models.NotFound, []string{`"none"`, "minimal, python311"}},
		"size": {[]Host{memory, disk}, Request{"python311", models.Size{DiskMiB: 1}}, models.Invalid,
			[]string{"at least 1024"}},
		"short": {[]Host{away, drained, memory, disk, bare}, Request{Template: "minimal"}, models.Exhausted,
			[]string{"no host has room", "host-00000004: 512 MiB of disk needed, 192 left; host-00000003: 256 MiB of memory needed, 96 left", "destroy"}},
		"too small": {[]Host{small, host(7, func(h *Host) { h.Capacity.VCPUs = 1 })}, Request{"minimal", models.Size{VCPUs: 2}}, models.Exhausted,
			[]string{"also when empty"}},
	} {
		_, err := LeastLoaded(c.hosts, c.r, even)
		e := models.AsError(err)
		if err == nil || e.Code != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
			continue
		}
		for _, part := range c.says {
			if !strings.Contains(e.Message+" "+e.Hint, part) {
				t.Errorf("%s: %q (%q) does not say %q", name, e.Message, e.Hint, part)
			}
		}
	}
}

// TestManyHostsAreNeverOversold places on random hosts until all refuse: no host is promised more than its capacity times the overcommit, closed and unreachable ones nothing,
// and when all refuse the sandbox fits on none that takes it.
func TestManyHostsAreNeverOversold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		over := Overcommit{VCPU: float64(rapid.IntRange(1, 4).Draw(t, "cpu")), Memory: 1, Disk: float64(rapid.IntRange(1, 2).Draw(t, "disk"))}
		hosts := rapid.SliceOfN(rapid.Custom(drawHost), 1, 6).Draw(t, "hosts")
		for i := range hosts {
			hosts[i].ID = id.Host(fmt.Sprintf("host-%08d", i))
		}
		for range 50 {
			r := Request{"minimal", models.Size{
				VCPUs: rapid.IntRange(1, 4).Draw(t, "vcpus"), MemoryMiB: rapid.IntRange(128, 2048).Draw(t, "memory"), DiskMiB: rapid.IntRange(512, 4096).Draw(t, "size"),
			}}
			p, err := LeastLoaded(hosts, r, over)
			if err != nil {
				for _, h := range hosts {
					if h.Reachable && h.Closed == "" && len(h.Templates) > 0 && h.fit(h.need(r.Size), 1, over) == nil {
						t.Fatalf("%s has room for %+v, and still: %v", h.ID, r.Size, err)
					}
				}
				return
			}
			for i := range hosts {
				if hosts[i].ID == p.Host {
					take(t, &hosts[i], r.Size, over)
				}
			}
		}
	})
}

func drawHost(t *rapid.T) Host {
	h := Host{
		Reachable: rapid.Bool().Draw(t, "up"), Closed: rapid.SampledFrom([]string{"", "is being drained"}).Draw(t, "closed"),
		OverheadMiB: int64(rapid.IntRange(0, 100).Draw(t, "overhead")),
		Capacity: Room{
			VCPUs: int64(rapid.IntRange(1, 8).Draw(t, "vcpus")), MemoryMiB: int64(rapid.IntRange(512, 8192).Draw(t, "memory")), DiskMiB: int64(rapid.IntRange(1024, 16384).Draw(t, "disk")),
		},
	}
	if rapid.Bool().Draw(t, "template") {
		h.Templates = []models.Template{{Name: "minimal", Warm: rapid.Bool().Draw(t, "warm")}}
	}
	return h
}

// take has the host hold one more, and fails when it should not have been asked to.
func take(t *rapid.T, h *Host, s models.Size, over Overcommit) {
	if !h.Reachable || h.Closed != "" || len(h.Templates) == 0 {
		t.Fatalf("placed on %+v", *h)
	}
	need := h.need(s)
	h.Allotted.VCPUs, h.Allotted.MemoryMiB, h.Allotted.DiskMiB = h.Allotted.VCPUs+need.VCPUs, h.Allotted.MemoryMiB+need.MemoryMiB, h.Allotted.DiskMiB+need.DiskMiB
	if float64(h.Allotted.VCPUs) > float64(h.Capacity.VCPUs)*over.VCPU || h.Allotted.MemoryMiB > h.Capacity.MemoryMiB || float64(h.Allotted.DiskMiB) > float64(h.Capacity.DiskMiB)*over.Disk {
		t.Fatalf("oversold: %+v", *h)
	}
}
