package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
)

// fakeKey opens the fake service.
const fakeKey = "wrn_0123456789abcdef0123456789abcdef"

// fake is a service with the API's shapes: every request it gets and every response it gives is held
// against the API's description.
type fake struct {
	t         *testing.T
	validator validator.Validator

	mu        sync.Mutex // guards the following
	sandboxes []map[string]any
	snapshots []map[string]any
	files     map[string]string // by sandbox:path
	fakeGuest
}

// newFake starts a fake service and returns its URL.
func newFake(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../internal/api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(document)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	f := &fake{t: t, validator: v, files: map[string]string{}, fakeGuest: newFakeGuest()}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return server.URL
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.stream(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	rec := httptest.NewRecorder()
	rec.Header().Set("X-Request-Id", "req-0123456789abcdef")
	f.mu.Lock()
	f.answer(rec, r, body)
	f.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	f.check(r, rec)
	for k, values := range rec.Header() {
		w.Header()[k] = values
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()) // the client may have gone away
}

// check holds what went in and out against the description. A request that was refused may be wrong.
func (f *fake) check(r *http.Request, rec *httptest.ResponseRecorder) {
	if rec.Code < 300 && r.Method != http.MethodPut {
		if ok, errs := f.validator.ValidateHttpRequest(r); !ok {
			f.t.Errorf("%s %s is no request of the API: %v", r.Method, r.URL, errs)
		}
	}
	if !strings.HasPrefix(rec.Header().Get("Content-Type"), "application/json") {
		return
	}
	if ok, errs := f.validator.GetResponseBodyValidator().ValidateResponseBody(r, rec.Result()); !ok {
		f.t.Errorf("the fake's answer to %s %s is not the API's: %v", r.Method, r.URL, errs)
	}
}

func (f *fake) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	if r.Header.Get("X-API-Key") != fakeKey {
		refuse(w, 401, "unauthenticated", "the API key is not valid", "")
		return
	}
	id, below, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/sandboxes/"), "/")
	switch {
	case r.URL.Path == "/v1/templates":
		reply(w, 200, map[string]any{"items": []any{map[string]any{"name": "python311", "digest": "sha256:1",
			"description": "Python\x1b[31m 3.11", "disk_mib": 512, "default_vcpus": 1, "default_memory_mib": 256}}})
	case waitsTooLong(r):
		refuse(w, 400, "invalid", "wait_seconds must be an integer between 0 and 600", "")
	case strings.HasPrefix(r.URL.Path, "/v1/webhooks"):
		f.webhook(w, r, body)
	case strings.HasPrefix(r.URL.Path, "/v1/api-keys"):
		f.apiKey(w, r, body)
	case strings.HasPrefix(r.URL.Path, "/v1/hosts"):
		f.host(w, r, body)
	case r.URL.Path == "/v1/audit":
		f.audit(w, r)
	case r.URL.Path == "/v1/usage":
		f.usage(w, r)
	case r.URL.Path == "/v1/pool":
		f.pool(w)
	case strings.HasPrefix(r.URL.Path, "/v1/snapshots"):
		f.kept(w, r)
	case r.URL.Path == "/v1/events":
		f.events(w, r)
	case r.URL.Path == "/v1/sandboxes" && r.Method == http.MethodPost:
		f.create(w, body)
	case r.URL.Path == "/v1/sandboxes":
		f.list(w, r)
	default:
		f.sandbox(w, r, id, below, body)
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // into memory
}

func refuse(w http.ResponseWriter, status int, code, message, hint string) {
	e := map[string]any{"code": code, "message": message, "request_id": "req-0123456789abcdef"}
	if hint != "" {
		e["hint"] = hint
	}
	reply(w, status, map[string]any{"error": e})
}

func (f *fake) create(w http.ResponseWriter, body []byte) {
	var req map[string]any
	if err := json.Unmarshal(body, &req); err != nil {
		refuse(w, 400, "invalid", "malformed", "")
		return
	}
	if req["snapshot"] != nil {
		req["template"] = "python311"
	}
	switch req["template"] {
	case "python311":
	case "huge":
		refuse(w, 429, "exhausted", "the host has no memory left", "destroy a sandbox")
		return
	case "broken":
		refuse(w, 500, "internal", "internal error", "")
		return
	default:
		refuse(w, 404, "not_found", fmt.Sprintf("there is no template %v", req["template"]), "GET /v1/templates lists them")
		return
	}
	now := time.Now().Add(-75 * time.Hour).UTC().Format("2006-01-02T15:04:05.000Z") // so that an age does not change while a script runs
	s := map[string]any{
		"id": fmt.Sprintf("sb-%08x", len(f.sandboxes)+1), "name": req["name"], "template": req["template"], "state": "running",
		"state_reason": nil, "vcpus": 1, "memory_mib": 256, "disk_mib": 512, "metadata": map[string]any{}, "host_id": "host-01234567",
		"created_at": now, "started_at": now, "updated_at": now, "state_deadline": nil, "generation": 3,
		"timings": []any{map[string]any{"step": "boot", "ms": 512.5}},
		"network": networkOf(defaultNetwork(), req["network"]), "auto_resume": req["auto_resume"] != false, "resumed": nil,
		"lifecycle": lifecycleOf(defaultLifecycle(), req["lifecycle"]), "verified_at": nil, "archive": nil,
		"parent_id": nil, "snapshot_id": req["snapshot"],
	}
	for _, field := range []string{"vcpus", "memory_mib", "disk_mib", "metadata"} {
		if v, given := req[field]; given {
			s[field] = v
		}
	}
	if env, given := req["env"].(map[string]any); given { // so that a script can see it
		s["metadata"] = env
	}
	f.sandboxes = append([]map[string]any{s}, f.sandboxes...)
	reply(w, 201, s)
}

// list gives pages of one, so that clients have to ask again.
func (f *fake) list(w http.ResponseWriter, r *http.Request) {
	var fitting []map[string]any
	states := r.URL.Query()["state"]
	for _, s := range f.sandboxes {
		team, metadata := r.URL.Query().Get("metadata.team"), s["metadata"].(map[string]any)
		if team != "" && metadata["team"] != team {
			continue
		}
		if slices.Contains(states, s["state"].(string)) || len(states) == 0 && s["state"] != "stopped" {
			fitting = append(fitting, s)
		}
	}
	var from int
	_, _ = fmt.Sscan(r.URL.Query().Get("cursor"), &from) // 0 without one
	page := map[string]any{"items": fitting[min(from, len(fitting)):min(from+1, len(fitting))], "next_cursor": nil}
	if len(fitting) == 0 {
		page["items"] = []any{}
	}
	if from+1 < len(fitting) {
		page["next_cursor"] = fmt.Sprint(from + 1)
	}
	reply(w, 200, page)
}

func (f *fake) sandbox(w http.ResponseWriter, r *http.Request, id, below string, body []byte) {
	i := slices.IndexFunc(f.sandboxes, func(s map[string]any) bool { return s["id"] == id })
	if i < 0 {
		refuse(w, 404, "not_found", "there is no sandbox "+id, "")
		return
	}
	s := f.sandboxes[i]
	switch {
	case below == "" && r.Method == http.MethodDelete:
		s["state"] = "stopped"
		reply(w, 200, s)
	case below == "" && r.Method == http.MethodPatch:
		f.change(w, s, body)
	case below == "":
		reply(w, 200, s)
	case below == "events":
		reply(w, 200, map[string]any{"items": []any{eventOf(s, 1)}, "next_cursor": nil})
	case below == "logs":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "Linux version 6.1\x1b]0;title\a\n")
	case below == "pause" && s["state"] == "running":
		s["state"] = "paused"
		reply(w, 200, s)
	case below == "hibernate" && (s["state"] == "paused" || s["state"] == "running"):
		s["state"], s["archive"] = "hibernated", map[string]any{"sent_bytes": 3 << 20}
		reply(w, 200, s)
	case below == "resume" && (s["state"] == "paused" || s["state"] == "hibernated"):
		s["state"] = "running"
		s["resumed"] = map[string]any{"at": s["created_at"], "steps": []any{
			map[string]any{"step": "hostname", "kept": true, "output": nil, "ms": 0.1}, map[string]any{"step": "hook:10-hello", "kept": false, "output": "hello", "ms": 2.5},
		}}
		reply(w, 200, s)
	case below == "fork":
		f.fork(w, s, body)
	case below == "snapshots":
		f.keep(w, s, body)
	case s["state"] == "stopped":
		refuse(w, 409, "precondition", "the sandbox is stopped", "create another one")
	case strings.HasPrefix(below, "network"):
		f.network(w, s, below)
	case strings.HasPrefix(below, "files"):
		f.file(w, r, id, strings.TrimPrefix(below, "files"), body)
	case strings.HasPrefix(below, "processes"):
		f.processes(w, r, strings.TrimPrefix(below, "processes"), body)
	case strings.HasPrefix(below, "contexts"):
		f.contexts(w, r, strings.TrimPrefix(below, "contexts"), body)
	case below == "port-tokens":
		f.portToken(w, body)
	}
}
