package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/go-chi/chi/v5"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/portproxy"
)

// maxTCPMessage bounds a message of the client.
const maxTCPMessage = 1 << 20

// tcpEnd is the message that says that its sender sends no more bytes.
type tcpEnd struct {
	Type string `json:"type"`
}

const endOfBytes = "end"

// connectTCP makes a WebSocket one connection to a port. What is wrong with the request, or the port, is answered by a response.
func (s *Server) connectTCP(w http.ResponseWriter, r *http.Request) error {
	sb, err := plainID(r)
	if err != nil {
		return err
	}
	port, err := portproxy.ParsePort(chi.URLParam(r, "port"))
	if err != nil {
		return err
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return withStatus(http.StatusUpgradeRequired, models.Errorf(models.Invalid, "a connection to a port is a WebSocket"))
	}
	guest, used, err := s.connection(r, sb)
	if err != nil {
		return err
	}
	target, err := guest.DialPort(r.Context(), port)
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // an API key is nothing that a browser adds by itself
	if err != nil {                                                                         // it has answered
		aboutOf(r.Context()).cause = err
		return nil
	}
	defer func() { _ = conn.CloseNow() }()
	t := &tcpStream{r: r, client: conn, port: usedConn{target, used}, ended: make(chan struct{})}
	t.serve(s.Limits.KeepOpen)
	return nil
}

// tcpStream is a connection to a port. A side that is slow slows the other; one that is silent may be so for as long as it likes,
// and TCP's own keepalive finds out that a client has gone.
type tcpStream struct {
	r      *http.Request
	client *websocket.Conn
	port   usedConn
	ended  chan struct{} // closed when the client sends no more
}

// serve runs until both have ended their sending, or either has gone.
func (t *tcpStream) serve(ping time.Duration) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.r.Context()))
	defer hangUpAt(t.r.Context(), t.client, func(err error) error { return t.tell(ctx, terminalError{Type: "error", errorBody: body(t.r, err)}) }, cancel)()
	defer context.AfterFunc(ctx, func() { _ = t.port.SetDeadline(time.Unix(1, 0)) })()
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	t.client.SetReadLimit(maxTCPMessage)
	work.Go(func() {
		defer cancel()
		t.end(t.up(ctx))
	})
	work.Go(func() { t.keepOpen(ctx, ping) })
	if err := t.down(ctx); err != nil {
		t.end(err)
		return
	}
	select {
	case <-t.ended:
		_ = t.client.Close(websocket.StatusNormalClosure, "")
	case <-ctx.Done():
	}
}

// up passes on what the client sends, until it has gone.
func (t *tcpStream) up(ctx context.Context) error {
	for over := false; ; {
		kind, data, err := t.client.Read(ctx)
		if err != nil {
			return nil //nolint:nilerr // it is how a client goes
		}
		var control tcpEnd
		switch {
		case over:
			return models.Errorf(models.Invalid, "there is a message after the end")
		case kind == websocket.MessageBinary:
			_, _ = t.port.Write(data) // where it fails, down says so, after what the server has said before
		case json.Unmarshal(data, &control) == nil && control.Type == endOfBytes:
			over = true
			_ = t.port.CloseWrite()
			close(t.ended)
		default:
			return models.Errorf(models.Invalid, `a text message must be {"type":"end"}`)
		}
	}
}

// down passes on what the server sends, to its end and with it.
func (t *tcpStream) down(ctx context.Context) error {
	buf := make([]byte, copyBuffer)
	for {
		n, err := t.port.Read(buf)
		if n > 0 {
			if err := t.client.Write(ctx, websocket.MessageBinary, buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return t.tell(ctx, tcpEnd{endOfBytes})
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return models.Errorf(models.Unavailable, "the connection to the server in the sandbox broke off").WithCause(err)
		}
	}
}

func (t *tcpStream) tell(ctx context.Context, message any) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	return t.client.Write(ctx, websocket.MessageText, b)
}

// end says why, if it is for the client to know.
func (t *tcpStream) end(err error) {
	var coded *models.Error
	if !errors.As(err, &coded) {
		return // the client has gone
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.r.Context()), execMargin)
	defer cancel()
	if t.tell(ctx, terminalError{Type: "error", errorBody: body(t.r, err)}) == nil {
		_ = t.client.Close(websocket.StatusInternalError, string(coded.Code))
	}
}

// keepOpen shows proxies on the way that the connection is in use.
func (t *tcpStream) keepOpen(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = t.client.Ping(ctx) // it waits for the answer: a client that is busy gets no second one
		case <-ctx.Done():
			return
		}
	}
}
