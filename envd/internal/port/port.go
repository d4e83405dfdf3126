// Package port connects the host to TCP servers in the guest: GET /ports/{port} with "Upgrade: tcp" becomes a connection to
// the port on loopback. Nothing of envd listens there in a guest.
package port

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
)

// dialLimit bounds one attempt to connect, which loopback answers at once.
const dialLimit = 2 * time.Second

// loopback are the addresses that are tried, in this order: a server may listen on either or on both.
var loopback = []string{"127.0.0.1", "::1"}

// Connect answers one request. The end of either side ends the connection.
func Connect(w http.ResponseWriter, r *http.Request) {
	port, err := strconv.ParseUint(r.PathValue("port"), 10, 16)
	if err != nil || port == 0 {
		apierror.New(http.StatusBadRequest, "a port is a number from 1 to 65535").Write(w)
		return
	}
	if r.Header.Get("Upgrade") != "tcp" || r.ProtoMajor != 1 {
		apierror.New(http.StatusUpgradeRequired, "the request must be an upgrade to tcp").Write(w)
		return
	}
	server, err := dial(r.Context(), strconv.FormatUint(port, 10))
	if err != nil {
		apierror.New(http.StatusBadGateway, "nothing listens on port %d", port).Write(w)
		return
	}
	defer func() { _ = server.Close() }()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		apierror.New(http.StatusInternalServerError, "%v", err).Write(w)
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Time{}) // the server's, of the request
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"); err != nil {
		return
	}
	splice(conn, buffered, server)
}

func dial(ctx context.Context, port string) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: dialLimit}
	for _, address := range loopback {
		if conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(address, port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// splice passes bytes on, both ways, until one side has ended and what it sent has been passed on.
func splice(conn net.Conn, sent io.Reader, server net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(server, sent) // its end, of whatever kind, is the end
		_ = server.Close()
	}()
	_, _ = io.Copy(conn, server)
	_ = conn.Close()
	<-done
}
