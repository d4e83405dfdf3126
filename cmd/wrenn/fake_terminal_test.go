package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

const fakeTerminal = "term-0000000000000001"

// terminal shows the query and echoes what is typed, in upper case. "drop" breaks the connection, after which the
// terminal begins at the offset it is asked for; "bye" ends it with status 3.
func (f *fake) terminal(w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(context.Background()) // Accept hijacks the connection
	if ok, errs := f.validator.ValidateHttpRequest(r); !ok {
		f.t.Errorf("%s is no request of the API: %v", r.URL, errs)
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	tell := func(kind websocket.MessageType, format string, args ...any) {
		_ = conn.Write(ctx, kind, fmt.Appendf(nil, format, args...))
	}
	q := r.URL.Query()
	var start struct {
		Cmd, Cwd, User string
		Env            map[string]string
	}
	if q.Get("start") == "message" {
		_, first, err := conn.Read(ctx)
		if err != nil || json.Unmarshal(first, &start) != nil {
			f.t.Errorf("the first message is %s, %v", first, err)
		}
	}
	f.mu.Lock()
	p := f.running[100]
	if p == nil {
		p = f.start(fakeRequest{Cmd: "wait"})
	}
	f.mu.Unlock()
	tell(websocket.MessageText, `{"type":"started","id":%q,"pid":%d,"offset":%s}`, fakeTerminal, p.pid, firstOf(q.Get("offset"), "0"))
	tell(websocket.MessageBinary, "size=%sx%s cmd=%s env=%v user=%s id=%s offset=%s\r\n", q.Get("cols"), q.Get("rows"), start.Cmd, start.Env, start.User, q.Get("id"), q.Get("offset"))
	for {
		kind, data, err := conn.Read(ctx)
		switch {
		case err != nil:
			return
		case kind == websocket.MessageText:
			tell(websocket.MessageBinary, "control %s\r\n", data)
		case strings.Contains(string(data), "drop"):
			return
		case strings.Contains(string(data), "bye"):
			tell(websocket.MessageText, `{"type":"exit","exit_code":3,"signal":0,"timed_out":false,"oom_killed":false}`)
			_ = conn.Close(websocket.StatusNormalClosure, "")
			return
		default:
			tell(websocket.MessageBinary, "%s", strings.ToUpper(string(data)))
		}
	}
}
