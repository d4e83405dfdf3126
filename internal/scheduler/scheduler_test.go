package scheduler

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

var even = Overcommit{VCPU: 1, Memory: 1, Disk: 1}

func oneHost() Host {
	return Host{
		ID: "host-00000001", Reachable: true,
		Capacity: Room{VCPUs: 4, MemoryMiB: 4096, DiskMiB: 8192},
		Templates: []models.Template{
			{Name: "python311", DefaultVCPUs: 2, DefaultMemoryMiB: 512, DiskMiB: 1024},
			{Name: "minimal", DiskMiB: 512},
		},
	}
}

func TestSingleHostDefaults(t *testing.T) {
	for _, c := range []struct {
		name string
		r    Request
		want models.Size
	}{
		{"template's", Request{Template: "python311"}, models.Size{VCPUs: 2, MemoryMiB: 512, DiskMiB: 1024}},
		{"ours", Request{Template: "minimal"}, models.Size{VCPUs: 1, MemoryMiB: 256, DiskMiB: 512}},
		{"asked for", Request{"python311", models.Size{VCPUs: 1, MemoryMiB: 128, DiskMiB: 2048}}, models.Size{VCPUs: 1, MemoryMiB: 128, DiskMiB: 2048}},
	} {
		got, err := SingleHost(oneHost(), c.r, even)
		if err != nil || got.Size != c.want || got.Host != "host-00000001" {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

func TestRefusesOnOneHost(t *testing.T) {
	full := oneHost()
	full.Allotted = Room{VCPUs: 4, MemoryMiB: 4000, DiskMiB: 8192}
	away := oneHost()
	away.Reachable = false
	heavy := oneHost()
	heavy.OverheadMiB, heavy.Allotted.MemoryMiB = 100, 3900 // 196 left
	bare := oneHost()
	bare.Templates = nil
	size := func(v, m, d int) models.Size { return models.Size{VCPUs: v, MemoryMiB: m, DiskMiB: d} }
	for _, c := range []struct {
		name     string
		hosts    []Host
		template string
		size     models.Size
		code     models.Code
		says     []string
	}{
		{"no host", nil, "minimal", models.Size{}, models.Unavailable, []string{"no host"}},
		{"unreachable", []Host{away}, "minimal", models.Size{}, models.Unavailable, []string{"cannot be reached"}},
		{"unknown template", []Host{oneHost()}, "windows", models.Size{}, models.NotFound, []string{`"windows"`, "minimal, python311"}},
		{"no templates", []Host{bare}, "minimal", models.Size{}, models.NotFound, []string{"make images"}},
		{"disk below the template's", []Host{oneHost()}, "python311", size(1, 128, 1023), models.Invalid, []string{"1024", "1023"}},
		{"negative", []Host{oneHost()}, "minimal", size(-1, 128, 0), models.Invalid, []string{"vcpus"}},
		{"too big for the host", []Host{oneHost()}, "minimal", size(5, 128, 0), models.Exhausted, []string{"5 vCPUs needed, 4 left", "also when empty"}},
		{"no room for its VMM", []Host{heavy}, "minimal", size(1, 128, 0), models.Exhausted, []string{"228 MiB of memory (100 of them for its VMM) needed, 196 left"}},
		{"full", []Host{full}, "minimal", size(1, 128, 512), models.Exhausted,
			[]string{"1 vCPUs needed, 0 left, 128 MiB of memory needed, 96 left, 512 MiB of disk needed, 0 left", "destroy"}},
	} {
		_, err := LeastLoaded(c.hosts, Request{c.template, c.size}, even)
		e := models.AsError(err)
		if err == nil || e.Code != c.code {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
			continue
		}
		for _, part := range c.says {
			if !strings.Contains(e.Message+" "+e.Hint, part) {
				t.Errorf("%s: %q (%q) does not say %q", c.name, e.Message, e.Hint, part)
			}
		}
	}
}

// TestNeverMoreThanAllowed places until the host refuses: what was allotted is within
// capacity times overcommit, and the refused one would not have fit.
func TestNeverMoreThanAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := oneHost()
		h.OverheadMiB = int64(rapid.IntRange(0, 200).Draw(t, "overhead"))
		over := Overcommit{VCPU: float64(rapid.IntRange(1, 16).Draw(t, "cpu")), Memory: 1, Disk: float64(rapid.IntRange(1, 4).Draw(t, "disk"))}
		for range 100 {
			want := models.Size{
				VCPUs:     rapid.IntRange(1, 4).Draw(t, "vcpus"),
				MemoryMiB: rapid.IntRange(128, 2048).Draw(t, "memory"),
				DiskMiB:   rapid.IntRange(512, 4096).Draw(t, "disk"),
			}
			_, err := SingleHost(h, Request{"minimal", want}, over)
			next := Room{h.Allotted.VCPUs + int64(want.VCPUs), h.Allotted.MemoryMiB + int64(want.MemoryMiB) + h.OverheadMiB, h.Allotted.DiskMiB + int64(want.DiskMiB)}
			within := next.VCPUs <= int64(over.VCPU*4) && next.MemoryMiB <= 4096 && next.DiskMiB <= int64(over.Disk*8192)
			if (err == nil) != within {
				t.Fatalf("allotted %+v, asked for %+v, overcommit %+v: %v", h.Allotted, want, over, err)
			}
			if err != nil {
				return
			}
			h.Allotted = next
		}
	})
}

// TestWake: a sandbox that slept needs memory and processors again, on its own host; its disk it has.
func TestWake(t *testing.T) {
	size := models.Size{VCPUs: 2, MemoryMiB: 1024, DiskMiB: 8192}
	for name, c := range map[string]struct {
		change func(*Host)
		want   models.Code
	}{
		"room":            {func(*Host) {}, ""},
		"full disk":       {func(h *Host) { h.Allotted.DiskMiB = 9000 }, ""},
		"no memory":       {func(h *Host) { h.Allotted.MemoryMiB = 3073 }, models.Exhausted},
		"its VMM's":       {func(h *Host) { h.Allotted.MemoryMiB, h.OverheadMiB = 3072, 1 }, models.Exhausted},
		"no processors":   {func(h *Host) { h.Allotted.VCPUs = 3 }, models.Exhausted},
		"unreachable":     {func(h *Host) { h.Reachable = false }, models.Unavailable},
		"on another host": {func(h *Host) { h.ID = "host-00000002" }, models.Unavailable},
	} {
		h := oneHost()
		c.change(&h)
		err := Wake([]Host{h}, "host-00000001", size, even)
		if (err == nil) != (c.want == "") || err != nil && models.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestBesideAndKeep: several sandboxes need room for all of them at once, each no more than there is; a snapshot needs disk alone, for its memory too.
func TestBesideAndKeep(t *testing.T) {
	size := models.Size{VCPUs: 1, MemoryMiB: 1024, DiskMiB: 2048}
	twice := Overcommit{VCPU: 2, Memory: 1, Disk: 1}
	for name, c := range map[string]struct {
		change func(*Host)
		n      int // 0 for a snapshot
		want   models.Code
	}{
		"four":                 {func(*Host) {}, 4, ""},
		"five":                 {func(*Host) {}, 5, models.Exhausted},
		"four VMMs":            {func(h *Host) { h.OverheadMiB = 1 }, 4, models.Exhausted},
		"more than processors": {func(h *Host) { h.Capacity.VCPUs = 2 }, 4, ""},
		"a snapshot":           {func(h *Host) { h.Allotted = Room{VCPUs: 99, MemoryMiB: 9999, DiskMiB: 5120} }, 0, ""},
		"its memory":           {func(h *Host) { h.Allotted.DiskMiB = 5121 }, 0, models.Exhausted},
		"unreachable":          {func(h *Host) { h.Reachable = false }, 0, models.Unavailable},
		"on another host":      {func(h *Host) { h.ID = "host-00000002" }, 1, models.Unavailable},
	} {
		h := oneHost()
		c.change(&h)
		err := Keep([]Host{h}, "host-00000001", size, twice)
		if c.n > 0 {
			err = Beside([]Host{h}, "host-00000001", size, c.n, twice)
		}
		if (err == nil) != (c.want == "") || err != nil && models.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
