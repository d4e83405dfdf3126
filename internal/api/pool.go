package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// maxWait is the longest that a request can wait for room in its account's pool.
const maxWait = 10 * time.Minute

// shareView is the schema PoolShare.
type shareView struct {
	Limit *int64 `json:"limit"`
	Used  int64  `json:"used"`
}

func viewOfShare(limit, used int64) shareView {
	if limit == models.Unlimited {
		return shareView{Used: used}
	}
	return shareView{Limit: &limit, Used: used}
}

func (s *Server) getPool(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	p, err := s.Store.Pool(r.Context(), by(r).Account)
	if err != nil {
		return err
	}
	s.writeJSON(w, http.StatusOK, map[string]shareView{
		"vcpus": viewOfShare(p.Limit.VCPUs, p.Used.VCPUs), "memory_mib": viewOfShare(p.Limit.MemoryMiB, p.Used.MemoryMiB),
		"disk_mib": viewOfShare(p.Limit.DiskMiB, p.Used.DiskMiB), "sandboxes": viewOfShare(p.Limit.Sandboxes, p.Used.Sandboxes),
	})
	return nil
}

// waitAsked returns how long a request may wait for room, of one that has no other query.
func waitAsked(r *http.Request) (time.Duration, error) {
	q, err := query(r, []string{"wait_seconds"})
	if err != nil || !q.Has("wait_seconds") {
		return 0, err
	}
	seconds, err := strconv.Atoi(q.Get("wait_seconds"))
	if err != nil || seconds < 0 || seconds > int(maxWait/time.Second) {
		return 0, models.Errorf(models.Invalid, "wait_seconds must be an integer between 0 and %d", int(maxWait/time.Second))
	}
	return time.Duration(seconds) * time.Second, nil
}

// waitingID returns the sandbox of a request that may wait, and how long.
func waitingID(r *http.Request) (id.Sandbox, time.Duration, error) {
	wait, err := waitAsked(r)
	if err != nil {
		return "", 0, err
	}
	sb, err := sandboxID(r)
	return sb, wait, err
}

func (s *Server) resumeSandbox(w http.ResponseWriter, r *http.Request) error {
	sbID, wait, err := waitingID(r)
	if err != nil {
		return err
	}
	return s.operateOn(w, r, sbID, func(ctx context.Context, by controller.By, sb id.Sandbox) (models.Sandbox, error) {
		return s.Controller.ResumeWithin(ctx, by, sb, wait)
	})
}
