package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

const (
	// joinLimit bounds the request to join.
	joinLimit = 30 * time.Second
	// maxJoinAnswer is far more than two certificates.
	maxJoinAnswer = 64 << 10
)

// open listens for control planes: on a unix socket as it is, on a network with TLS, for which the host joins first where it has not.
func open(ctx context.Context, cfg config.Agent, h *host, log *slog.Logger) (net.Listener, pb.IdentityServiceServer, error) {
	if !cfg.OnNetwork() {
		ln, err := listen(ctx, cfg.Listen)
		return ln, nil, err
	}
	identity, err := mtls.NewIdentity(filepath.Join(cfg.Data, "identity.pem"), h.id)
	if err != nil {
		return nil, nil, err
	}
	if !identity.Joined() {
		if err := join(ctx, cfg, h, identity); err != nil {
			return nil, nil, err
		}
		log.Info("host has joined", "host_id", h.id, "control_plane", cfg.Join, "address", cfg.Address())
	}
	ln, err := listen(ctx, cfg.Listen)
	if err != nil {
		return nil, nil, err
	}
	return tls.NewListener(ln, identity.Server()), identity, nil
}

// join has the control plane certify who this host is.
func join(ctx context.Context, cfg config.Agent, h *host, identity *mtls.Identity) error {
	if cfg.Join == "" || cfg.Token == "" {
		return models.Errorf(models.Precondition, "the host has no valid certificate, without which it does not listen on %s", cfg.Listen).
			WithHint("control-plane host token prints a token; start with --join URL --token TOKEN")
	}
	token, err := mtls.ParseToken(cfg.Token)
	if err != nil {
		return err
	}
	request, err := identity.Request()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	answer, err := askToJoin(ctx, cfg.Join, joinRequest{Token: token.Secret(), Host: string(h.id), Name: h.name, Address: cfg.Address(), Request: request})
	if err != nil {
		return err
	}
	return identity.Join(token, answer.Certificate, answer.Authority)
}

// joinRequest and joinAnswer are the bodies of POST /v1/hosts/join; bytes are DER in base64.
type joinRequest struct {
	Token   string `json:"token"`
	Host    string `json:"host_id"`
	Name    string `json:"name"`
	Address string `json:"address"`
	Request []byte `json:"certificate_request"`
}

type joinAnswer struct {
	Certificate []byte `json:"certificate"`
	Authority   []byte `json:"authority"`
	Error       struct{ Code, Message, Hint string }
}

func askToJoin(ctx context.Context, base string, body joinRequest) (joinAnswer, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return joinAnswer{}, fmt.Errorf("encode the request to join: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+"/v1/hosts/join", bytes.NewReader(text))
	if err != nil {
		return joinAnswer{}, fmt.Errorf("ask to join: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return joinAnswer{}, models.Errorf(models.Unavailable, "the control plane cannot be reached: %v", err)
	}
	defer resp.Body.Close()
	var answer joinAnswer
	err = json.NewDecoder(io.LimitReader(resp.Body, maxJoinAnswer)).Decode(&answer)
	switch {
	case err == nil && resp.StatusCode == http.StatusCreated:
		return answer, nil
	case answer.Error.Message != "":
		return answer, models.Errorf(models.Code(answer.Error.Code), "the control plane does not let the host join: %s", answer.Error.Message).WithHint("%s", answer.Error.Hint)
	}
	return answer, models.Errorf(models.Unavailable, "what answers at %s is no control plane: %s", base, resp.Status)
}
