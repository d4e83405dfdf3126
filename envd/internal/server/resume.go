package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/boot"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
)

// resumeRequest is the body of /resume: initRequest's fields, and what a guest needs that was restored from a snapshot.
type resumeRequest struct {
	initRequest
	Entropy   []byte `json:"entropy"`
	MachineID string `json:"machineId"`
	MAC       string `json:"mac"`

	mac net.HardwareAddr
}

// certificate is the answer to /resume: what was done, in order, up to the first thing that failed.
type certificate struct {
	OK    bool              `json:"ok"`
	Steps []certificateStep `json:"steps"`
}

type certificateStep struct {
	Name       string `json:"name"` // of hooks: hook:<file name>
	OK         bool   `json:"ok"`
	Kept       bool   `json:"kept,omitempty"` // nothing was asked for, and nothing changed
	Reason     string `json:"reason,omitempty"`
	Output     string `json:"output,omitempty"` // of a hook
	DurationUS int64  `json:"duration_us"`
}

func (c *certificate) add(step certificateStep, err error, took time.Duration) {
	step.OK, step.DurationUS = err == nil, took.Microseconds()
	if err != nil {
		step.Reason = err.Error()
	}
	c.OK = step.OK
	c.Steps = append(c.Steps, step)
}

// resume is called once after every restore, before anybody else may use the guest. The answer is a certificate also where something
// failed: the guest must then not be used.
func (s *Server) resume(w http.ResponseWriter, r *http.Request) {
	request, err := readResume(http.MaxBytesReader(r.Body, maxInit))
	if err != nil {
		apierror.New(http.StatusBadRequest, "%v", err).Write(w)
		return
	}
	s.initMu.Lock()
	defer s.initMu.Unlock()
	if refusal := s.refuse(r); refusal != nil { // again: another call may have set a token meanwhile
		refusal.Write(w)
		return
	}
	answer := s.certify(r.Context(), request)
	if !answer.OK {
		s.opts.Logger.Error("resume failed", "step", answer.Steps[len(answer.Steps)-1].Name, "reason", answer.Steps[len(answer.Steps)-1].Reason)
	}
	w.Header().Set(HeaderVersion, s.opts.Version)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // fails only where nobody reads it any more
}

func readResume(body io.Reader) (*resumeRequest, error) {
	request := &resumeRequest{}
	if err := json.NewDecoder(body).Decode(request); err != nil {
		return nil, fmt.Errorf("the body is not what /resume takes: %w", err)
	}
	return request, request.check()
}

func (q *resumeRequest) check() (err error) {
	switch {
	case q.AccessToken == "":
		return fmt.Errorf("an accessToken is needed")
	case q.Timestamp == nil:
		return fmt.Errorf("a timestamp is needed")
	case len(q.Entropy) < boot.MinEntropy:
		return fmt.Errorf("at least %d bytes of entropy are needed", boot.MinEntropy)
	}
	if q.MAC != "" {
		if q.mac, err = net.ParseMAC(q.MAC); err != nil {
			return err
		}
	}
	return q.initRequest.check()
}

// certify gives the guest its identity, then the token, which ends the one before and every connection's grant, and at last runs the
// hooks: they see the guest as its users will.
func (s *Server) certify(ctx context.Context, request *resumeRequest) certificate {
	answer := certificate{OK: true}
	if s.opts.Resume != nil {
		id := boot.Identity{Settings: request.settings(), MachineID: request.MachineID, MAC: request.mac, Entropy: request.Entropy}
		for _, result := range s.opts.Resume(ctx, id) {
			answer.add(certificateStep{Name: result.Name, Kept: result.Kept}, result.Err, result.Took)
		}
	}
	if !answer.OK {
		return answer
	}
	start := time.Now()
	s.session.Update(session.Defaults{
		User: request.DefaultUser, Workdir: request.DefaultWorkdir, Env: request.EnvVars,
	}, request.AccessToken)
	answer.add(certificateStep{Name: "token"}, nil, time.Since(start))
	for _, ran := range s.hooks.Run() {
		answer.add(certificateStep{Name: "hook:" + ran.Name, Output: ran.Output}, ran.Err, ran.Took)
	}
	return answer
}
