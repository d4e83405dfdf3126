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
	if v.State != Running {
		e := models.Errorf(models.Precondition, "sandbox %s is %s, not running", sb, v.State)
		if v.Reason != "" {
			e = e.WithHint("it is so because %s", v.Reason)
		}
		return nil, e
	}
	_, guest := s.machine()
	return guest, nil
}
