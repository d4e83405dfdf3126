package controller

import (
	"testing"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

// TestOverheadIsCounted holds that each sandbox of a host takes its VMM's memory too.
func TestOverheadIsCounted(t *testing.T) {
	hosts := []*db.HostUse{{
		Host: db.Host{ID: "host-00000001", VCPUs: 4, MemoryMiB: 4096, DiskMiB: 100, OverheadMiB: 60},
		Use:  db.Use{Sandboxes: 3, VCPUs: 3, MemoryMiB: 768, DiskMiB: 30},
	}}
	got := views(hosts, map[id.Host]bool{"host-00000001": true})
	if len(got) != 1 || got[0].OverheadMiB != 60 || got[0].Allotted != (scheduler.Room{VCPUs: 3, MemoryMiB: 948, DiskMiB: 30}) {
		t.Errorf("views %+v", got)
	}
}
