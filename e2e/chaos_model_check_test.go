package e2e

import (
	"errors"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/lifetest/invariant"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// TestChaosSeesWhatIsWrong: what TestChaos holds a sandbox against allows what is allowed, and nothing else.
func TestChaosSeesWhatIsWrong(t *testing.T) {
	c := cargo{
		files: map[string]string{"f0": "aa"}, loose: map[string]bool{"f1 bb": true, "f1 cc": true}, ran: map[string]bool{"u0-1": true, "u0-2": false},
	}
	for shown, right := range map[string]bool{
		"u0-1\n--\naa f0\n": true, "u0-1\nu0-2\n--\naa f0\nbb f1\n": true, "u0-1\n--\naa f0\ncc f1\n": true,
		"": false, "--\naa f0\n": false, "u0-1\nu0-1\n--\naa f0\n": false, "u0-1\nu0-2\nu0-2\n--\naa f0\n": false, "u0-1\nu9-9\n--\naa f0\n": false,
		"u0-1\n--\n": false, "u0-1\n--\nbb f0\n": false, "u0-1\n--\naa f0\ndd f1\n": false, "u0-1\n--\naa f0\naa f2\n": false,
	} {
		if wrong := c.differs(shown); (len(wrong) == 0) != right {
			t.Errorf("%q: %v", shown, wrong)
		}
	}
	for state, is := range map[models.State]struct{ right, wrong held }{
		models.Running: {held{folder: true, tap: true, vmms: 1}, held{folder: true, tap: true}}, models.Paused: {held{folder: true}, held{folder: true, vmms: 1}},
		models.Failed: {held{}, held{folder: true, vmms: 1}}, models.Hibernated: {held{}, held{folder: true}}, "": {held{}, held{tap: true}},
	} {
		r := invariant.Row{State: state}
		if what := heldBy(r, is.wrong); what == "" {
			t.Errorf("of one that is %q a host may have %v", state, is.wrong)
		}
		if what := heldBy(r, is.right); what != "" && is.right != (held{}) {
			t.Errorf("of one that is %q a host may not have %v %s", state, is.right, what)
		}
	}
	x := &chaos{killed: map[string]bool{"sb-1": true}}
	for id, may := range map[string]bool{"sb-1": true, "sb-2": false} {
		if x.allows(newBox(id, noCargo()), wrenn.Failed) != may {
			t.Errorf("%s may have failed: %v", id, !may)
		}
	}
	for _, err := range []error{&wrenn.Error{Code: wrenn.Internal, Status: 500}, &wrenn.Error{Code: wrenn.NotFound, Status: 404}, &wrenn.Error{Code: wrenn.Unauthenticated, Status: 401}} {
		if _, wrong := outcomeOf(err); !wrong {
			t.Errorf("%#v is thought to be in order", err)
		}
	}
	if o, wrong := outcomeOf(errors.New("connection refused")); o != unknown || wrong {
		t.Errorf("a connection that broke: %v, %v", o, wrong)
	}
}
