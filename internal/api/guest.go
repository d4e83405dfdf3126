package api

import (
	"net/http"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// guest returns the guest of a running sandbox of the caller's.
func (s *Server) guest(r *http.Request, sb id.Sandbox) (*envdclient.Client, error) {
	return s.Controller.Guest(r.Context(), by(r).Account, sb)
}
