package hostapi

import (
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestTunnelsAreCounted: no sandbox takes more than its share, none more than the host has, and what is over is forgotten.
func TestTunnelsAreCounted(t *testing.T) {
	open := &tunnels{of: map[id.Sandbox]int{}}
	one, other := id.Sandbox("sb-00000001"), id.Sandbox("sb-00000002")
	for range maxOfSandbox {
		if err := open.enter(one); err != nil {
			t.Fatal(err)
		}
	}
	if err := open.enter(one); models.CodeOf(err) != models.Exhausted {
		t.Errorf("one too many: %v", err)
	}
	if err := open.enter(other); err != nil {
		t.Errorf("another sandbox: %v", err)
	}
	open.leave(one)
	if err := open.enter(one); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	for range maxOfSandbox {
		open.leave(one)
	}
	open.leave(other)
	if open.all != 0 || len(open.of) != 0 {
		t.Errorf("%d are counted of %v when none is open", open.all, open.of)
	}
	open.all = maxOfHost
	if err := open.enter(one); models.CodeOf(err) != models.Exhausted {
		t.Errorf("a full host: %v", err)
	}
}

// TestWhyATunnelEnds: what was sent through a tunnel may have been done, so that its end is no Precondition; one that was refused has carried nothing.
func TestWhyATunnelEnds(t *testing.T) {
	paused, gone := models.Errorf(models.Precondition, "sandbox sb-00000001 is paused, not running"), models.Errorf(models.NotFound, "there is no sandbox sb-00000001")
	for _, c := range []struct {
		ended error
		begun bool
		want  models.Code
	}{{paused, false, models.Precondition}, {paused, true, models.Unavailable}, {gone, false, models.NotFound}, {gone, true, models.NotFound}} {
		if got := models.CodeOf(why(c.ended, c.begun)); got != c.want {
			t.Errorf("%v, begun %v: %s, want %s", c.ended, c.begun, got, c.want)
		}
	}
}
