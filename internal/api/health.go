package api

import (
	"context"
	"fmt"
	"net/http"
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
// whether its address is right. Addresses are for the log: anybody may ask this.
func (s *Server) checkHosts() check {
	hosts := s.Controller.Fleet.Status()
	up, answered := 0, 0
	for _, h := range hosts {
		if h.Up {
			up++
		}
		if h.Answered {
			answered++
		}
	}
	detail := fmt.Sprintf("%d of %d can be reached", up, len(hosts))
	switch {
	case up == len(hosts) && up > 0:
		return check{"hosts", isReady, detail}
	case answered > 0:
		return check{"hosts", isDegraded, detail}
	default:
		return check{"hosts", isFailed, detail + ", and none has been since the start: see the log"}
	}
}
