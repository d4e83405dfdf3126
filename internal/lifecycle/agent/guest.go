package agent

import (
	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Guest returns the client of a running sandbox's envd, or a NotFound or Precondition
// error. It stays the agent's: the caller does not close it.
func (a *Agent) Guest(sb id.Sandbox) (*envdclient.Client, error) {
	s, err := a.find(sb)
	if err != nil {
		return nil, err
	}
	v := s.view()
	if _, guest := s.machine(); v.State == Running && guest != nil {
		return guest, nil
	}
	return nil, v.isNot(Running)
}

// isNot is the error of what can be done only with a sandbox in another state.
func (v Sandbox) isNot(want State) error {
	e := models.Errorf(models.Precondition, "sandbox %s is %s, not %s", v.ID, v.State, want)
	if v.Reason != "" {
		e = e.WithHint("it is so because %s", v.Reason)
	}
	return e
}
