package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
)

// door is the control plane's side of a join, by its contract in openapi.yaml; e2e has the real one.
type door struct {
	authority *mtls.Authority
	asked     []joinRequest
	answer    func(http.ResponseWriter) bool // nil, or false, for a certificate
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in joinRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.URL.Path != "/v1/hosts/join" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	d.asked = append(d.asked, in)
	if d.answer != nil && d.answer(w) {
		return
	}
	certificate, err := d.authority.SignHost(in.Request, "host-00000001")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(joinAnswer{Certificate: certificate, Authority: d.authority.Certificate()}) // who has gone needs no answer
}

// TestOpenOnANetwork: an agent on TCP joins once and then speaks TLS; without a certificate it does not listen.
func TestOpenOnANetwork(t *testing.T) {
	authority, err := mtls.NewAuthority(bytes.Repeat([]byte{7}, 32), mtls.HostLife)
	if err != nil {
		t.Fatal(err)
	}
	d := &door{authority: authority}
	server := httptest.NewServer(d)
	defer server.Close()
	h := &host{id: "host-00000001", name: "one"}
	token := mtls.NewToken(authority)
	cfg := config.Agent{Data: t.TempDir(), Listen: "127.0.0.1:0", Advertise: "10.0.0.7:9000", Join: server.URL + "/", Token: string(token)}
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]struct {
		change func(*config.Agent)
		answer func(http.ResponseWriter) bool
		code   models.Code
		says   string
	}{
		"no token":          {change: func(c *config.Agent) { c.Token = "" }, code: models.Precondition, says: "no valid certificate"},
		"no URL":            {change: func(c *config.Agent) { c.Join = "" }, code: models.Precondition, says: "no valid certificate"},
		"a token of old":    {change: func(c *config.Agent) { c.Token = "x" }, code: models.Invalid, says: "the token"},
		"nobody there":      {change: func(c *config.Agent) { c.Join = "http://127.0.0.1:1" }, code: models.Unavailable, says: "cannot be reached"},
		"somebody else":     {change: func(c *config.Agent) { c.Join = server.URL + "/elsewhere" }, code: models.Unavailable, says: "no control plane"},
		"another authority": {change: func(c *config.Agent) { c.Token = "wht_" + strings.Repeat("0", 32) + "." + strings.Repeat("0", 64) }, code: models.Forbidden, says: "not the control plane"},
		"refused": {answer: func(w http.ResponseWriter) bool {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":{"code":"unauthenticated","message":"the token was used already","hint":"x"}}`))
			return true
		}, code: models.Unauthenticated, says: "used already"},
	} {
		changed := cfg
		if c.change != nil {
			c.change(&changed)
		}
		d.answer = c.answer
		if _, _, err := open(t.Context(), changed, h, log); models.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.answer, d.asked = nil, nil
	for range 2 { // the second time it has joined
		ln, identity, err := open(t.Context(), cfg, h, log)
		if err != nil || identity == nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := ln.Accept()
			if err == nil {
				_ = conn.(*tls.Conn).HandshakeContext(t.Context()) // the caller sees how it went
				_ = conn.Close()
			}
		}()
		conn, err := tls.Dial("tcp", ln.Addr().String(), authority.Client(h.id))
		if err != nil {
			t.Errorf("a control plane: %v", err)
		} else {
			_ = conn.Close()
		}
		_ = ln.Close()
	}
	if len(d.asked) != 1 || d.asked[0].Token != token.Secret() || d.asked[0].Address != "10.0.0.7:9000" || d.asked[0].Name != "one" || d.asked[0].Host != string(h.id) {
		t.Errorf("it asked %+v", d.asked)
	}
	cfg.Listen = "unix://" + filepath.Join(cfg.Data, "s")
	ln, identity, err := open(t.Context(), cfg, h, log)
	if err != nil || identity != nil {
		t.Fatalf("on a unix socket: %v, %v", identity, err)
	}
	_ = ln.Close()
}
