package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/boot"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
)

// maxInit bounds the body of /init, and with it the environment.
const maxInit = 1 << 20

// maxHostname is HOST_NAME_MAX of limits.h.
const maxHostname = 64

// initRequest is the body of /init: E2B's fields, of which others than these are ignored, and
// hostname and network, which are ours. What is absent stays as it is.
type initRequest struct {
	EnvVars        map[string]string `json:"envVars"`
	AccessToken    string            `json:"accessToken"`
	Timestamp      *time.Time        `json:"timestamp"`
	DefaultUser    string            `json:"defaultUser"`
	DefaultWorkdir string            `json:"defaultWorkdir"`
	Hostname       string            `json:"hostname"`
	Network        *struct {
		Address netip.Prefix `json:"address"`
		Gateway netip.Addr   `json:"gateway"`
		DNS     []netip.Addr `json:"dns"`
		IPv6    *struct {
			Address netip.Prefix `json:"address"`
			Gateway netip.Addr   `json:"gateway"`
		} `json:"ipv6"`
	} `json:"network"`
}

// init applies what the host says. All of it is checked before any of it takes effect.
func (s *Server) init(w http.ResponseWriter, r *http.Request) {
	request, err := readInit(http.MaxBytesReader(r.Body, maxInit))
	if err != nil {
		apierror.New(http.StatusBadRequest, "%v", err).Write(w)
		return
	}
	s.initMu.Lock()
	defer s.initMu.Unlock()
	if refusal := s.refuse(r); refusal != nil { // again: another /init may have set a token meanwhile
		refusal.Write(w)
		return
	}
	if failure := s.apply(r, request); failure != nil {
		failure.Write(w)
		return
	}
	w.Header().Set(HeaderVersion, s.opts.Version)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

func readInit(body io.Reader) (*initRequest, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("the body could not be read: %w", err)
	}
	request := &initRequest{}
	if len(data) == 0 {
		return request, nil
	}
	if err := json.Unmarshal(data, request); err != nil {
		return nil, fmt.Errorf("the body is not what /init takes: %w", err)
	}
	return request, request.check()
}

func (q *initRequest) check() error {
	if len(q.Hostname) > maxHostname || strings.ContainsAny(q.Hostname, "/ \n\x00") {
		return fmt.Errorf("hostname %q is not valid", q.Hostname)
	}
	for name, value := range q.EnvVars {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return fmt.Errorf("environment variable %q is not valid", name)
		}
	}
	return nil
}

// apply makes the request take effect, the token last: a failed /init can be repeated.
func (s *Server) apply(r *http.Request, request *initRequest) *apierror.Error {
	if request.AccessToken == "" && !s.session.HasToken() && !s.opts.Debug {
		return apierror.New(http.StatusBadRequest, "the first /init must set an accessToken")
	}
	if s.opts.Reconfigure != nil {
		if err := s.opts.Reconfigure(r.Context(), request.settings()); err != nil {
			s.opts.Logger.Error("init failed", "error", err)
			return apierror.New(http.StatusInternalServerError, "reconfigure the guest: %v", err)
		}
	}
	s.session.Update(session.Defaults{
		User: request.DefaultUser, Workdir: request.DefaultWorkdir, Env: request.EnvVars,
	}, request.AccessToken)
	return nil
}

func (q *initRequest) settings() boot.Settings {
	settings := boot.Settings{Hostname: q.Hostname}
	if q.Timestamp != nil {
		settings.Time = *q.Timestamp
	}
	if q.Network != nil {
		settings.Address, settings.Gateway, settings.DNS = q.Network.Address, q.Network.Gateway, q.Network.DNS
		if q.Network.IPv6 != nil {
			settings.IPv6 = &boot.IPv6{Address: q.Network.IPv6.Address, Gateway: q.Network.IPv6.Gateway}
		}
	}
	return settings
}
