package server_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/server"
)

// sign signs as the protocol's clients do.
func sign(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, ":")))
	return "v1_" + strings.TrimRight(base64.StdEncoding.EncodeToString(sum[:]), "=")
}

// printf /tmp/x:read:user:token:1700000000 | openssl dgst -sha256 -binary | base64
func TestSignatureOfTheProtocol(t *testing.T) {
	if got := sign("/tmp/x", "read", "user", "token", "1700000000"); got != "v1_D70ebxbMbY98xVzZgNl+QyLUBUggv2vvCFph+VinKYI" {
		t.Error(got)
	}
}

func TestSignedURL(t *testing.T) {
	e := start(t, server.Options{})
	e.init(`{"accessToken":"secret","defaultUser":"tester"}`)
	if err := os.WriteFile(e.home+"/file", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	future, past := fmt.Sprint(time.Now().Add(time.Hour).Unix()), fmt.Sprint(time.Now().Add(-time.Hour).Unix())
	octets := http.Header{"Content-Type": {"application/octet-stream"}}
	for name, c := range map[string]struct {
		method    string
		path      string
		user      string
		signature string
		exp       string
		header    http.Header
		status    int
		text      string
	}{
		"read":            {"GET", "file", "", sign("file", "read", "", "secret"), "", nil, 200, "text"},
		"as a user":       {"GET", "file", "tester", sign("file", "read", "tester", "secret"), "", nil, 200, "text"},
		"in time":         {"GET", "file", "", sign("file", "read", "", "secret", future), future, nil, 200, "text"},
		"HEAD":            {"HEAD", "file", "", sign("file", "read", "", "secret"), "", nil, 200, ""},
		"write":           {"POST", "new", "", sign("new", "write", "", "secret", future), future, octets, 200, "new"},
		"none":            {"GET", "file", "", "", "", nil, 401, "missing signature query parameter"},
		"late":            {"GET", "file", "", sign("file", "read", "", "secret", past), past, nil, 401, `"signature is already expired"`},
		"late and wrong":  {"GET", "file", "", sign("file", "read", "", "wrong", past), past, nil, 401, "invalid signature"},
		"prolonged":       {"GET", "file", "", sign("file", "read", "", "secret", past), future, nil, 401, "invalid signature"},
		"without end":     {"GET", "file", "", sign("file", "read", "", "secret", future), "", nil, 401, "invalid signature"},
		"no number":       {"GET", "file", "", sign("file", "read", "", "secret", "x"), "x", nil, 400, "signature_expiration"},
		"other path":      {"GET", "/etc/shadow", "", sign("file", "read", "", "secret"), "", nil, 401, "invalid signature"},
		"other user":      {"GET", "file", "root", sign("file", "read", "", "secret"), "", nil, 401, "invalid signature"},
		"other operation": {"POST", "file", "", sign("file", "read", "", "secret"), "", octets, 401, "invalid signature"},
		"other token":     {"GET", "file", "", sign("file", "read", "", "old"), "", nil, 401, "invalid signature"},
		"no token":        {"GET", "file", "", sign("file", "read", "", ""), "", nil, 401, "invalid signature"},
		"wrong token":     {"GET", "file", "", sign("file", "read", "", "secret"), "", token("wrong"), 401, "valid access token"},
		"token":           {"GET", "file", "", "", "", token("secret"), 200, "text"},
	} {
		query := url.Values{"path": {c.path}}
		for key, value := range map[string]string{"username": c.user, "signature": c.signature, "signature_expiration": c.exp} {
			if value != "" {
				query.Set(key, value)
			}
		}
		status, text := e.request(c.method, "/files?"+query.Encode(), "new", c.header)
		if status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s: %d %s, want %d with %q", name, status, text, c.status, c.text)
		}
	}
	for _, route := range []string{"/archive", "/files/compose", "/chmod", "/files/"} { // a signature opens /files only
		query := url.Values{"path": {"file"}, "signature": {sign("file", "read", "", "secret")}}
		if status, _ := e.request("GET", route+"?"+query.Encode(), "", nil); status != 401 {
			t.Errorf("%s: %d", route, status)
		}
	}
}

// Before a token is set no signature is valid, not even one made without a token.
func TestSignatureBeforeInit(t *testing.T) {
	e := start(t, server.Options{})
	query := url.Values{"path": {"/etc/passwd"}, "signature": {sign("/etc/passwd", "read", "", "")}}
	if status, text := e.request("GET", "/files?"+query.Encode(), "", nil); status != 401 || !strings.Contains(text, "not initialized") {
		t.Errorf("%d %s", status, text)
	}
}
