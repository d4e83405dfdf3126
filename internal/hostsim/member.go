package hostsim

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/wrenn-sandbox/wrenn/internal/mtls"
)

// Join has the host that i is listen on a port of loopback, with TLS, from now on and after each restart. i must have joined.
func (h *Host) Join(i *mtls.Identity) {
	h.t.Helper()
	h.Kill()
	h.identity, h.tcp = i, "127.0.0.1:0"
	h.Restart()
}

// listen opens where the host listens; a port it keeps.
func (h *Host) listen() (net.Listener, error) {
	var config net.ListenConfig
	if h.identity == nil {
		return config.Listen(context.Background(), "unix", h.path)
	}
	l, err := config.Listen(context.Background(), "tcp", h.tcp)
	if err != nil {
		return nil, err
	}
	h.tcp = l.Addr().String()
	return tls.NewListener(l, h.identity.Server()), nil
}
