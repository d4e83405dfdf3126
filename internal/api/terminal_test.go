package api

import (
	"net/http"
	"time"
)

type ticketAnswer struct {
	Ticket    string    `json:"ticket"`
	ExpiresAt time.Time `json:"expires_at"`
}

func (r *rig) ticket(sb string) string {
	r.t.Helper()
	return decoded[ticketAnswer](r.t, r.call("POST", "/v1/sandboxes/"+sb+"/terminal-tickets", ""), http.StatusCreated).Ticket
}
