package api

import (
	"net/http"

	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// forkRequest is the schema Fork.
type forkRequest struct {
	Count    *int              `json:"count"`
	Metadata map[string]string `json:"metadata"`
}

func (s *Server) forkSandbox(w http.ResponseWriter, r *http.Request) error {
	sbID, wait, err := waitingID(r)
	if err != nil {
		return err
	}
	var in forkRequest
	if err := s.decodeJSON(w, r, &in); err != nil {
		return err
	}
	req, err := in.check()
	if err != nil {
		return err
	}
	req.Wait = wait
	children, err := s.Controller.Fork(r.Context(), by(r), sbID, req)
	if err != nil {
		return err
	}
	items := make([]sandboxView, len(children))
	for i, sb := range children {
		items[i] = view(sb)
	}
	s.writeJSON(w, http.StatusCreated, map[string]any{"items": items})
	return nil
}

func (in forkRequest) check() (controller.ForkRequest, error) {
	out := controller.ForkRequest{Count: 1, Metadata: in.Metadata}
	if in.Count != nil {
		out.Count = *in.Count
	}
	if out.Count < 1 || out.Count > models.MaxForks {
		return out, models.Errorf(models.Invalid, "count must be between 1 and %d, not %d", models.MaxForks, out.Count).WithHint("fork again for more")
	}
	return out, checkMetadata(in.Metadata)
}
