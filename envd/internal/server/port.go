package server

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/apierror"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/proto/parts"
)

const (
	// maxSplices is how many connections to ports there may be at once.
	maxSplices = 512
	// dialTimeout bounds how long a server in the guest may take to accept.
	dialTimeout = 5 * time.Second
	// halfIdle is how long a connection one direction of which has ended may be silent in the other.
	halfIdle = 10 * time.Minute
	// minCopy and maxCopy bound the buffer of each direction, which grows with what arrives: most connections are idle.
	minCopy, maxCopy = 4 << 10, parts.MaxData
)

// port makes the request's connection one to a server in the guest: after status 101 both sides' bytes are passed on, in
// parts on the client's side, so that either can end its own. Before that, an error is answered as on every route.
func (s *Server) port(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.ParseUint(r.PathValue("port"), 10, 16)
	if err != nil || number == 0 {
		apierror.New(http.StatusBadRequest, "%.20q is not a port", r.PathValue("port")).Write(w)
		return
	}
	if !asksForParts(r) {
		apierror.New(http.StatusBadRequest, "a port is reached over HTTP/1.1 with Connection: Upgrade and Upgrade: %s", parts.Protocol).Write(w)
		return
	}
	if !s.splices.enter() {
		apierror.New(http.StatusTooManyRequests, "%d connections to ports are open, and no more are allowed", maxSplices).Write(w)
		return
	}
	defer s.splices.leave()
	target, err := dialGuest(r.Context(), strconv.FormatUint(number, 10))
	if err != nil {
		apierror.New(http.StatusBadGateway, "nothing listens on port %d of the sandbox", number).Write(w)
		return
	}
	defer func() { _ = target.Close() }()
	client, err := upgrade(w)
	if err != nil {
		return // the caller is gone
	}
	s.splices.run(client, target.(*net.TCPConn))
}

func asksForParts(r *http.Request) bool {
	for _, token := range strings.Split(r.Header.Get("Connection"), ",") {
		if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
			return r.ProtoMajor == 1 && strings.EqualFold(r.Header.Get("Upgrade"), parts.Protocol)
		}
	}
	return false
}

// dialGuest connects to a port of the guest's own, in either version of IP.
func dialGuest(ctx context.Context, port string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	if err == nil {
		return conn, nil
	}
	return dialer.DialContext(ctx, "tcp6", net.JoinHostPort("::1", port))
}

// upgrade takes the connection over from the HTTP server and answers with 101.
func upgrade(w http.ResponseWriter) (*parts.Conn, error) {
	conn, early, err := http.Hijack(w)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+parts.Protocol+"\r\n\r\n"); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return parts.New(conn, early), nil
}

// splices counts the connections to ports, and ends them with the server. Its zero value is ready.
type splices struct {
	tasks sync.WaitGroup

	mu     sync.Mutex
	closed bool
	count  int
	conns  map[net.Conn]struct{} // both sides'
}

// enter takes a place for one more.
func (s *splices) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.count >= maxSplices {
		return false
	}
	s.count++
	s.tasks.Add(1)
	return true
}

func (s *splices) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
	s.tasks.Done()
}

// add makes close reach both sides, and reports false when it was too late for that.
func (s *splices) add(client, target net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[net.Conn]struct{}{}
	}
	s.conns[client], s.conns[target] = struct{}{}, struct{}{}
	return !s.closed
}

func (s *splices) remove(client, target net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, client)
	delete(s.conns, target)
}

// close ends all and waits for them.
func (s *splices) close() {
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		cut(conn)
	}
	s.mu.Unlock()
	s.tasks.Wait()
}

// run passes bytes between the two until both directions have ended, or one has failed. The end of one side's
// bytes is passed on, and the other direction goes on. A client that goes away without a word is a failure.
func (s *splices) run(client *parts.Conn, target *net.TCPConn) {
	defer func() { _ = client.Close() }()
	defer s.remove(client, target)
	if !s.add(client, target) {
		return
	}
	ended := make(chan error, 2)
	in := &flow{from: client, write: func(b []byte) error { return second(target.Write(b)) }, closeWrite: target.CloseWrite}
	out := &flow{from: target, room: parts.Header, write: client.WritePart, closeWrite: client.CloseWrite}
	in.other, out.other = out, in
	go func() { ended <- in.copy() }()
	go func() { ended <- out.copy() }()
	for range 2 {
		if err := <-ended; err != nil {
			cut(client) // ends the other direction
			cut(target)
		}
	}
}

func second(_ int, err error) error { return err }

// cut ends a connection and who waits in it: a stream of the serial transport is closed in one direction only, and
// a deadline does the other.
func cut(conn net.Conn) {
	_ = conn.SetDeadline(time.Unix(1, 0))
	_ = conn.Close()
}

// flow is one direction.
type flow struct {
	from       net.Conn
	room       int // that write needs before the bytes
	write      func([]byte) error
	closeWrite func() error
	other      *flow

	mu   sync.Mutex
	half bool // whether the other direction has ended
}

// copy passes bytes on until their end, and then that.
func (f *flow) copy() error {
	var buf []byte
	for size := minCopy; ; {
		if len(buf) < f.room+size || len(buf) > 4*(f.room+size) {
			buf = make([]byte, f.room+size)
		}
		n, err := f.from.Read(buf[f.room:])
		size = min(max(2*n, minCopy), maxCopy)
		if n > 0 {
			if err := f.write(buf[:f.room+n]); err != nil {
				return err
			}
			f.extend()
		}
		if errors.Is(err, io.EOF) {
			f.other.limit()
			return f.closeWrite()
		}
		if err != nil {
			return err
		}
	}
}

// limit makes silence end the flow from now on.
func (f *flow) limit() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.half = true
	_ = f.from.SetReadDeadline(time.Now().Add(halfIdle))
}

// extend begins the time of silence anew.
func (f *flow) extend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.half {
		_ = f.from.SetReadDeadline(time.Now().Add(halfIdle))
	}
}
