package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// checkLimit bounds the checks of readiness: whoever asks is a machine that asks again.
const checkLimit = 2 * time.Second

// readiness is the schema Readiness.
type readiness struct {
	Status string  `json:"status"`
	Checks []check `json:"checks"`
}

type check struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`
}

const (
	isReady    = "ready"
	isDegraded = "degraded"
	isFailed   = "failed"
)

func (s *Server) health(w http.ResponseWriter, r *http.Request) error {
	s.writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), checkLimit)
	defer cancel()
	all := readiness{Status: isReady, Checks: []check{s.checkDatabase(ctx), s.checkRedis(ctx), s.checkHosts()}}
	code := http.StatusOK
	for _, c := range all.Checks {
		switch {
		case c.Status == isFailed:
			all.Status, code = isFailed, http.StatusServiceUnavailable
		case c.Status == isDegraded && all.Status == isReady:
			all.Status = isDegraded
		}
	}
	s.writeJSON(w, code, all)
	return nil
}

func (s *Server) checkDatabase(ctx context.Context) check {
	if err := s.Store.Ping(ctx); err != nil {
		return check{"database", isFailed, models.AsError(err).Message}
	}
	return check{"database", isReady, "it answers"}
}

func (s *Server) checkRedis(ctx context.Context) check {
	if s.Redis == nil {
		return check{"redis", isDegraded, "none is configured: keys are looked up in the database"}
	}
	if err := s.Redis.Check(ctx); err != nil {
		return check{"redis", isDegraded, models.AsError(err).Message}
	}
	return check{"redis", isReady, "it answers"}
}

// checkHosts fails until a host has answered this process once: before that nobody knows
// whether its address is right.
func (s *Server) checkHosts() check {
	hosts := s.Controller.Fleet.Status()
	status, up := isFailed, 0
	var away []string
	for _, h := range hosts {
		if h.Up {
			up++
			continue
		}
		away = append(away, fmt.Sprintf("%s: %s", h.Address, reason(h.Err)))
		if h.Answered {
			status = isDegraded
		}
	}
	if up > 0 {
		status = isReady
	}
	if up > 0 && len(away) > 0 {
		status = isDegraded
	}
	detail := fmt.Sprintf("%d of %d can be reached", up, len(hosts))
	if len(away) > 0 {
		detail += "; " + strings.Join(away, "; ")
	}
	return check{"hosts", status, detail}
}

func reason(err error) string {
	if err == nil {
		return "not connected yet"
	}
	return models.AsError(err).Message
}
