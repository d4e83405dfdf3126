package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const fakeContext = "ctx-00000001"

func (f *fake) contexts(w http.ResponseWriter, r *http.Request, below string, body []byte) {
	var in struct{ Language, Code string }
	if len(body) > 0 && json.Unmarshal(body, &in) != nil {
		refuse(w, 400, "invalid", "malformed", "")
		return
	}
	id, verb, _ := strings.Cut(strings.TrimPrefix(below, "/"), "/")
	switch {
	case below == "" && r.Method == http.MethodPost && in.Language == "javascript":
		refuse(w, 409, "precondition", "the template has no javascript", "")
	case below == "" && r.Method == http.MethodPost:
		reply(w, 201, map[string]any{"id": fakeContext, "language": "python", "cwd": nil, "user": "user", "pid": 50, "created_at": time.Now().UTC().Format("2006-01-02T15:04:05.000Z")})
	case below == "":
		reply(w, 200, map[string]any{"items": []any{}})
	case r.Method == http.MethodDelete:
		f.deleted = append(f.deleted, id)
		w.WriteHeader(http.StatusNoContent)
	case verb == "execute":
		reply(w, 200, map[string]any{"status": "ok", "execution_count": 1, "stdout": in.Code, "stderr": "", "stdout_truncated": false, "stderr_truncated": false,
			"results": []any{}, "results_truncated": false, "error": nil, "duration_ms": 1.5})
	}
}

// executeStream prints the code, and has a value for it. Some code fails.
func (f *fake) executeStream(w http.ResponseWriter, r *http.Request, id string) {
	var in struct{ Code string }
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &in) // what is missing is seen by the script
	w.Header().Set("Content-Type", "text/event-stream")
	event := func(name string, v any) {
		b, _ := json.Marshal(v) // of maps
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, b)
	}
	f.mu.Lock()
	deleted := len(f.deleted)
	f.mu.Unlock()
	event("stdout", map[string]any{"text": fmt.Sprintf("%s runs in %s, %d deleted\n", strings.TrimSpace(in.Code), id, deleted)})
	status := "ok"
	switch strings.TrimSpace(in.Code) {
	case "raise":
		status = "error"
		event("error", map[string]any{"name": "ValueError", "value": "no", "traceback": []string{"Traceback:", "ValueError: no"}})
	case "plot":
		event("result", map[string]any{"main": true, "data": map[string]any{"text/plain": "<Figure>", "image/png": "iVBORw==", "image/svg+xml": "<svg/>"}})
	case "json":
		event("result", map[string]any{"main": true, "data": map[string]any{"application/json": map[string]any{"a": 1}}})
	case "forever":
		status = "timed_out"
	case "crash":
		event("failure", map[string]any{"code": "unavailable", "message": "the interpreter crashed", "request_id": "req-1"})
		return
	default:
		event("result", map[string]any{"main": true, "data": map[string]any{"text/plain": "42", "application/json": 42}})
	}
	event("end", map[string]any{"status": status, "execution_count": 1})
}

func (f *fake) portToken(w http.ResponseWriter, body []byte) {
	var in struct {
		Port    int
		Expires int `json:"expires_in_seconds"`
	}
	_ = json.Unmarshal(body, &in) // the check sees what is wrong
	reply(w, 201, map[string]any{"token": fmt.Sprintf("t%d", in.Expires), "url": nil, "path_url": fmt.Sprintf("http://here/ports/%d/?token=t%d", in.Port, in.Expires),
		"expires_at": "2026-01-02T03:04:05.678Z"})
}
