package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// tcpForward passes connections on to a port of a sandbox.
type tcpForward struct {
	app    *app
	client *wrenn.Client
	id     string
	port   int
}

// serve takes connections until ctx ends, and then ends them.
func (f *tcpForward) serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })() // Accept says it
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		conns.Go(func() { f.pass(ctx, conn.(*net.TCPConn)) })
	}
}

// pass is one connection.
func (f *tcpForward) pass(ctx context.Context, local *net.TCPConn) {
	if err := f.splice(ctx, local); err != nil && ctx.Err() == nil {
		fmt.Fprintf(f.app.stderr, "wrenn: port %d of %s: %s\n", f.port, f.id, printable(err.Error()))
	}
}

// splice returns when both directions have ended. The end of either is passed on, and the other goes on. What cannot be passed
// on whole, the local program finds reset, not ended.
func (f *tcpForward) splice(ctx context.Context, local *net.TCPConn) error {
	defer func() { _ = local.Close() }() // there is nobody to tell
	remote, err := f.client.DialTCP(ctx, f.id, f.port)
	if err != nil {
		_ = local.SetLinger(0)
		return err
	}
	defer func() { _ = remote.Close() }()
	cut := func() {
		_ = local.SetLinger(0)
		_ = local.Close()
		_ = remote.Close()
	}
	defer context.AfterFunc(ctx, cut)()
	ended := make(chan error, 2)
	go func() { ended <- passOn(remote, local) }()
	go func() { ended <- passOn(local, remote) }()
	first := <-ended
	if first != nil {
		cut()
	}
	return cmp.Or(first, <-ended)
}

// half is a connection whose directions end apart.
type half interface {
	io.ReadWriter
	CloseWrite() error
}

func passOn(to, from half) error {
	// Neither end's own way to copy: what comes is passed on as it comes.
	_, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	if err != nil {
		return err
	}
	return to.CloseWrite()
}
