package lifetest

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// proxy carries connections to a unix socket until it is cut; then it ends them, and takes no new ones until it is mended.
type proxy struct {
	socket   string
	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex // guards what follows
	off   bool
	conns map[net.Conn]bool
}

func newProxy(t testing.TB, socket string) *proxy {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{socket: socket, listener: l, conns: map[net.Conn]bool{}}
	p.wg.Go(p.serve)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		var d net.Dialer
		behind, err := d.DialContext(context.Background(), "unix", p.socket)
		if err != nil || !p.keep(conn, behind) {
			_ = conn.Close()
			continue
		}
		p.wg.Go(func() { p.carry(conn, behind) })
		p.wg.Go(func() { p.carry(behind, conn) })
	}
}

// keep takes in both ends of a connection, unless the proxy is cut.
func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.off {
			_ = c.Close()
		} else {
			p.conns[c] = true
		}
	}
	return !p.off
}

func (p *proxy) carry(to, from net.Conn) {
	_, _ = io.Copy(to, from) // the end of either is that of both
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range []net.Conn{to, from} {
		_ = c.Close()
		delete(p.conns, c)
	}
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = false
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.cut()
	p.wg.Wait()
}
