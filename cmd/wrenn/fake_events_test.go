package main

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// eventOf is an event of a sandbox, which has one of each id.
func eventOf(s map[string]any, id int) map[string]any {
	return map[string]any{
		"id": fmt.Sprint(id), "sandbox_id": s["id"], "from": nil, "to": "pending", "reason": fmt.Sprintf("reason %d\x1b[31m", id), "actor": "key-01234567",
		"at": s["created_at"], "generation": 1,
	}
}

// events has the events 2 and 1 of the last sandbox, and a stream of one more, which then fails.
func (f *fake) events(w http.ResponseWriter, r *http.Request) {
	s := f.sandboxes[0]
	if r.Header.Get("Accept") != "text/event-stream" {
		reply(w, 200, map[string]any{"items": []any{eventOf(s, 2), eventOf(s, 1)}, "next_cursor": nil})
		return
	}
	b, err := json.Marshal(eventOf(s, 3))
	if err != nil {
		f.t.Error(err)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "id: 2\nevent: following\ndata: {}\n\nid: 3\nevent: state\ndata: %s\n\n", b)
	fmt.Fprintf(w, "event: error\ndata: {\"code\":\"forbidden\",\"message\":\"no more after %s\",\"request_id\":\"r\"}\n\n", r.Header.Get("Last-Event-ID"))
}
