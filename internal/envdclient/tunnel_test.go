package envdclient

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// In a tunnel the guest answers a client that has no token; in other connections it does not.
func TestTunnel(t *testing.T) {
	agent := attach(t)
	through := New(agent.Tunnel, "")
	t.Cleanup(through.Close)
	if _, err := through.Metrics(within(t)); err != nil {
		t.Error(err)
	}
	if r := run(t, through, shell("echo $FROM_INIT")); string(r.stdout) != "yes\n" {
		t.Errorf("%+v", r)
	}
	past := New(dialTCP(guest), "")
	t.Cleanup(past.Close)
	_, err := past.Metrics(within(t))
	wantError(t, err, models.Internal, "unauthorized")
	wrong := New(dialTCP(guest), "wrong")
	t.Cleanup(wrong.Close)
	_, err = wrong.Tunnel(within(t))
	wantError(t, err, models.Internal, "unauthorized")
}

// A tunnel ends with the client that made it, whatever its user is doing.
func TestTunnelEndsWithItsClient(t *testing.T) {
	agent := New(dialTCP(guest), testToken)
	conn, err := agent.Tunnel(within(t))
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		read <- err
	}()
	agent.Close()
	if err := <-read; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read: %v", err)
	}
	_ = conn.Close() // again
	if _, err := agent.Tunnel(within(t)); models.CodeOf(err) != models.Unavailable {
		t.Errorf("a tunnel of a closed client: %v", err)
	}
}

func TestTunnelToAHostileGuest(t *testing.T) {
	for name, c := range map[string]struct {
		act  func(net.Conn)
		text string
		code models.Code
	}{
		"silent":           {say(""), "does not answer", models.Unavailable},
		"hangs up":         {func(net.Conn) {}, "does not answer", models.Unavailable},
		"no HTTP":          {say("SSH-2.0-OpenSSH\r\n"), "does not answer", models.Unavailable},
		"says more":        {say("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), "does not answer", models.Unavailable},
		"endless header":   {forever("HTTP/1.1 204 No Content\r\n", "X: "+strings.Repeat("x", 1000)+"\r\n"), "does not answer", models.Unavailable},
		"endless body":     {forever("HTTP/1.1 401 Unauthorized\r\n\r\n", strings.Repeat("x", 4096)), "no reason", models.Internal},
		"body that hangs":  {say("HTTP/1.1 503 No\r\nContent-Length: 10\r\n\r\n"), "does not answer", models.Unavailable},
		"another status":   {say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "no reason", models.Internal},
		"refuses in words": {say("HTTP/1.1 429 No\r\nContent-Length: 18\r\n\r\n{\"message\":\"full\"}"), "full", models.Exhausted},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := hostile(t, c.act).Tunnel(within(t))
			wantError(t, err, c.code, c.text)
			if conn != nil {
				t.Error("a connection was handed out")
			}
		})
	}
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	_, err := hostile(t, say("")).Tunnel(ctx)
	wantError(t, err, models.Unavailable, "")
}
