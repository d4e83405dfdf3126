package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
)

type ticketAnswer struct {
	Ticket    string    `json:"ticket"`
	ExpiresAt time.Time `json:"expires_at"`
}

func (r *rig) ticket(sb string) string {
	r.t.Helper()
	return decoded[ticketAnswer](r.t, r.call("POST", "/v1/sandboxes/"+sb+"/terminal-tickets", ""), http.StatusCreated).Ticket
}

// echoing is a terminal that says when it is ready, and then gives back what it gets.
const echoing = "stty raw -echo; printf ready; exec cat"

// terminalClient counts what it gets, as a client does that wants to come back.
type terminalClient struct {
	t      testing.TB
	conn   *websocket.Conn
	id     string
	offset uint64
	gaps   uint64
	output []byte
}

type terminalMessage struct {
	Type     string `json:"type"`
	ID       string `json:"id"`
	Offset   uint64 `json:"offset"`
	Bytes    uint64 `json:"bytes"`
	ExitCode int    `json:"exit_code"`
	Signal   int    `json:"signal"`
	Code     string `json:"code"`
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func (r *rig) dialTerminal(sb string, q url.Values, options *websocket.DialOptions) (*websocket.Conn, *http.Response, error) {
	r.t.Helper()
	return websocket.Dial(within(r.t), r.server.URL+"/v1/sandboxes/"+sb+"/terminal?"+q.Encode(), options)
}

// openTerminal opens a terminal with the key of the rig and waits until it has started.
func (r *rig) openTerminal(sb string, q url.Values) *terminalClient {
	r.t.Helper()
	conn, _, err := r.dialTerminal(sb, q, &websocket.DialOptions{HTTPHeader: http.Header{auth.Header: {string(r.key)}}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.CloseNow() })
	c := &terminalClient{t: r.t, conn: conn}
	c.conn.SetReadLimit(1 << 20)
	if m := c.next(); m.Type != "started" || m.ID == "" {
		r.t.Fatalf("the first message is %+v", m)
	} else {
		c.id, c.offset = m.ID, m.Offset
	}
	return c
}

// next reads until there is a text message, keeping output. An error ends the test.
func (c *terminalClient) next() terminalMessage {
	c.t.Helper()
	for {
		kind, data, err := c.conn.Read(within(c.t))
		if err != nil {
			c.t.Fatal(err)
		}
		if kind == websocket.MessageBinary {
			c.output = append(c.output, data...)
			c.offset += uint64(len(data))
			continue
		}
		var m terminalMessage
		if err := json.Unmarshal(data, &m); err != nil {
			c.t.Fatal(err)
		}
		if m.Type == "gap" {
			c.offset += m.Bytes
			c.gaps += m.Bytes
		}
		return m
	}
}

// until reads output until it ends in text.
func (c *terminalClient) until(text string) {
	c.t.Helper()
	for !bytes.HasSuffix(c.output, []byte(text)) {
		c.some()
	}
}

// some reads a piece of output.
func (c *terminalClient) some() {
	c.t.Helper()
	kind, data, err := c.conn.Read(within(c.t))
	if err != nil || kind != websocket.MessageBinary {
		c.t.Fatalf("%v %q: %v", kind, data, err)
	}
	c.output = append(c.output, data...)
	c.offset += uint64(len(data))
}

func (c *terminalClient) send(kind websocket.MessageType, text string) {
	c.t.Helper()
	if err := c.conn.Write(within(c.t), kind, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

func TestTerminal(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	c := r.openTerminal(sb, url.Values{"cmd": {echoing}})
	c.until("ready")
	c.send(websocket.MessageBinary, "bytes \x00\xff\r\n\x1b[A.")
	c.until("bytes \x00\xff\r\n\x1b[A.")
	for _, ten := range []string{"0123456789", "abcdefghij", "ABCDEFGHIJ"} {
		large := strings.Repeat(ten, 20_000) // no more than envd holds for who reads slowly
		c.send(websocket.MessageBinary, large)
		c.until(large)
	}
}

// What a terminal runs, and its variables, need not be in the URL.
func TestTerminalStartMessage(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	open := func(message string) *terminalClient {
		conn, _, err := r.dialTerminal(sb, url.Values{"start": {"message"}}, &websocket.DialOptions{HTTPHeader: http.Header{auth.Header: {string(r.key)}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.CloseNow() })
		c := &terminalClient{t: t, conn: conn}
		c.send(websocket.MessageText, message)
		return c
	}
	c := open(`{"type":"start","cmd":"printf \"$SECRET $TERM\"; sleep 1000","env":{"SECRET":"hidden"}}`)
	if m := c.next(); m.Type != "started" {
		t.Fatalf("%+v", m)
	}
	c.until("hidden xterm-256color")
	for _, message := range []string{"{}", `{"type":"start","cmd":"true","else":1}`, `{"type":"start","env":{"a=b":"c"}}`} {
		if m := open(message).next(); m.Type != "error" || m.Code != "invalid" {
			t.Errorf("%s: %+v", message, m)
		}
	}
}

// A client that comes back, after its connection dropped without a word, gets every byte once.
func TestTerminalComesBack(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	c := r.openTerminal(sb, url.Values{"cmd": {echoing}})
	c.until("ready")
	want := "ready"
	for i := range 20 {
		text := fmt.Sprintf("<%d %s>", i, strings.Repeat("x", i*997))
		c.send(websocket.MessageBinary, text)
		want += text
		if i%3 != 0 { // sometimes with output under way
			c.until(text)
		} else {
			c.some()
		}
		_ = c.conn.CloseNow()
		again := r.openTerminal(sb, url.Values{"id": {c.id}, "offset": {fmt.Sprint(c.offset)}})
		again.output, c = c.output, again
		c.until(text)
		if string(c.output) != want || c.gaps != 0 {
			t.Fatalf("%d: %d bytes and a gap of %d, want %d", i, len(c.output), c.gaps, len(want))
		}
	}
	whole := r.openTerminal(sb, url.Values{"id": {c.id}}) // beside the other
	whole.until(want)
}

func TestTerminalExit(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	c := r.openTerminal(sb, url.Values{"cmd": {"printf bye; exit 3"}})
	if m := c.next(); m.Type != "exit" || m.ExitCode != 3 || string(c.output) != "bye" {
		t.Errorf("%+v after %q", m, c.output)
	}
	if _, _, err := c.conn.Read(within(t)); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("then %v", err)
	}
	again := r.openTerminal(sb, url.Values{"id": {c.id}}) // what has ended still tells
	if m := again.next(); m.Type != "exit" || m.ExitCode != 3 || string(again.output) != "bye" {
		t.Errorf("%+v after %q", m, again.output)
	}
}

func TestTerminalDetach(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	c := r.openTerminal(sb, url.Values{"cmd": {echoing}, "detach": {"false"}})
	c.until("ready")
	beside := r.openTerminal(sb, url.Values{"id": {c.id}})
	_ = c.conn.CloseNow()
	if m := beside.next(); m.Type != "exit" || m.Signal != 9 {
		t.Errorf("%+v", m)
	}
}

func TestTerminalErrors(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	key := &websocket.DialOptions{HTTPHeader: http.Header{auth.Header: {string(r.key)}}}
	for name, c := range map[string]struct {
		sb      string
		q       url.Values
		options *websocket.DialOptions
		status  int
	}{
		"nobody":            {sb, nil, nil, 401},
		"a wrong ticket":    {sb, url.Values{"ticket": {"wtt_x.y"}}, nil, 401},
		"another's ticket":  {sb, url.Values{"ticket": {r.ticket(r.create().ID)}}, nil, 403},
		"no such sandbox":   {"sb-00000000", nil, key, 404},
		"no id":             {"sb-x", nil, key, 400},
		"cols":              {sb, url.Values{"cols": {"0"}}, key, 400},
		"rows":              {sb, url.Values{"rows": {"x"}}, key, 400},
		"detach":            {sb, url.Values{"detach": {"maybe"}}, key, 400},
		"id":                {sb, url.Values{"id": {"7"}}, key, 400},
		"unknown parameter": {sb, url.Values{"shell": {"sh"}}, key, 400},
	} {
		_, resp, err := r.dialTerminal(c.sb, c.q, c.options)
		if err == nil || resp == nil || resp.StatusCode != c.status {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	if a := r.call("GET", "/v1/sandboxes/"+sb+"/terminal", ""); a.status != http.StatusUpgradeRequired {
		t.Errorf("no WebSocket: %d %s", a.status, a.body)
	}
	conn, _, err := r.dialTerminal(sb, url.Values{"id": {"term-0000000000000000"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	c := &terminalClient{t: t, conn: conn}
	if m := c.next(); m.Type != "error" || m.Code != "not_found" {
		t.Errorf("%+v", m)
	}
}

// A browser opens a terminal with a ticket, which it can only put into the URL or a subprotocol.
func TestTerminalTicket(t *testing.T) {
	r := newRig(t, Limits{})
	sb := r.create().ID
	origin := http.Header{"Origin": {"https://app.example"}} // a ticket is good for a page of any origin
	for name, try := range map[string]func(ticket string) (*websocket.Conn, *http.Response, error){
		"query": func(ticket string) (*websocket.Conn, *http.Response, error) {
			return r.dialTerminal(sb, url.Values{"ticket": {ticket}, "cmd": {echoing}}, &websocket.DialOptions{HTTPHeader: origin})
		},
		"subprotocol": func(ticket string) (*websocket.Conn, *http.Response, error) {
			return r.dialTerminal(sb, url.Values{"cmd": {echoing}}, &websocket.DialOptions{HTTPHeader: origin, Subprotocols: []string{terminalProtocol, ticketProtocol + ticket}})
		},
	} {
		ticket := r.ticket(sb)
		conn, resp, err := try(ticket)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c := &terminalClient{t: t, conn: conn}
		if m := c.next(); m.Type != "started" {
			t.Errorf("%s: %+v", name, m)
		}
		if strings.Contains(fmt.Sprint(resp.Header), ticket) || strings.Contains(r.log.String(), ticket) {
			t.Errorf("%s: the ticket comes back or is in the log", name)
		}
		_ = conn.CloseNow()
	}
}

// A client that says nothing sensible is told so.
func TestTerminalNonsense(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.openTerminal(r.create().ID, url.Values{"cmd": {echoing}})
	c.send(websocket.MessageText, `{"type":"resize","cols":100,"rows":50}`)
	c.send(websocket.MessageText, `{"type":"nonsense"}`)
	if m := c.next(); m.Type != "error" || m.Code != "invalid" {
		t.Errorf("%+v", m)
	}
}

// A client that does not answer is given up, a terminal with it not.
func TestTerminalSilentClient(t *testing.T) {
	r := newRig(t, Limits{KeepOpen: 20 * time.Millisecond, Idle: 200 * time.Millisecond})
	sb := r.create().ID
	c := r.openTerminal(sb, url.Values{"cmd": {echoing}})
	c.until("ready")
	r.eventually("the silent client is given up", func() bool { // it does not read, so it does not answer pings
		return strings.Contains(r.log.String(), "/terminal status=101")
	})
	again := r.openTerminal(sb, url.Values{"id": {c.id}})
	again.until("ready")
}
