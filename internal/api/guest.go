package api

import (
	"net/http"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// guest returns the guest of a running sandbox of the caller's.
func (s *Server) guest(r *http.Request, sb id.Sandbox) (*envdclient.Client, error) {
	guest, err := s.Controller.Guest(r.Context(), by(r).Account, sb)
	if err == nil {
		err = enterGuest(r)
	}
	return guest, err
}

// connection is guest for a request that may be held open for long without being of use: used is called when it is.
func (s *Server) connection(r *http.Request, sb id.Sandbox) (guest *envdclient.Client, used func(), err error) {
	return s.Controller.Connection(r.Context(), by(r).Account, sb)
}

// usedConn is a connection to a port that tells of every piece of data.
type usedConn struct {
	*envdclient.PortConn
	used func()
}

func (c usedConn) Read(b []byte) (int, error) {
	n, err := c.PortConn.Read(b)
	if n > 0 {
		c.used()
	}
	return n, err
}

func (c usedConn) Write(b []byte) (int, error) {
	c.used()
	return c.PortConn.Write(b)
}
