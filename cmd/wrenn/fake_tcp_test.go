package main

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// tcp is a server that answers in upper case once its client has ended, and breaks off after "break".
func (f *fake) tcp(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	var heard strings.Builder
	for {
		kind, data, err := conn.Read(ctx)
		switch {
		case err != nil || string(data) == "break":
			return
		case kind == websocket.MessageText:
			_ = conn.Write(ctx, websocket.MessageBinary, []byte(strings.ToUpper(heard.String())))
			_ = conn.Write(ctx, websocket.MessageText, []byte(`{"type":"end"}`))
			_ = conn.Close(websocket.StatusNormalClosure, "")
			return
		}
		heard.Write(data)
	}
}
