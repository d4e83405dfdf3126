package api

import (
	"context"
	"net/http"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func (s *Server) pauseSandbox(w http.ResponseWriter, r *http.Request) error {
	return s.operate(w, r, s.Controller.Pause)
}

func (s *Server) hibernateSandbox(w http.ResponseWriter, r *http.Request) error {
	return s.operate(w, r, s.Controller.Hibernate)
}

// archiveView is the schema Archive.
type archiveView struct {
	SentBytes int64 `json:"sent_bytes"`
}

func viewOfArchive(a *models.Archive) *archiveView {
	if a == nil {
		return nil
	}
	return &archiveView{SentBytes: a.SentBytes}
}

// operate answers with the sandbox after an operation that takes nothing but its id.
func (s *Server) operate(w http.ResponseWriter, r *http.Request, do func(context.Context, controller.By, id.Sandbox) (models.Sandbox, error)) error {
	sbID, err := plainID(r)
	if err != nil {
		return err
	}
	return s.operateOn(w, r, sbID, do)
}

func (s *Server) operateOn(w http.ResponseWriter, r *http.Request, sbID id.Sandbox, do func(context.Context, controller.By, id.Sandbox) (models.Sandbox, error)) error {
	sb, err := do(r.Context(), by(r), sbID)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, view(sb))
	return nil
}

// certificateView is the schema Certificate.
type certificateView struct {
	At    apiTime               `json:"at"`
	Steps []certificateStepView `json:"steps"`
}

type certificateStepView struct {
	Step   string  `json:"step"`
	Kept   bool    `json:"kept"`
	Output *string `json:"output"`
	MS     float64 `json:"ms"`
}

func viewOfCertificate(c *models.Certificate) *certificateView {
	if c == nil {
		return nil
	}
	v := certificateView{At: apiTime(c.At), Steps: make([]certificateStepView, len(c.Steps))}
	for i, s := range c.Steps {
		v.Steps[i] = certificateStepView{Step: s.Name, Kept: s.Kept, Output: orNull(s.Output), MS: milliseconds(s.Duration)}
	}
	return &v
}
