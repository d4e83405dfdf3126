package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"gopkg.in/yaml.v3"
)

func TestSpecIsValid(t *testing.T) {
	v, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		for _, e := range errs {
			t.Errorf("%s: %s %v", e.Message, e.Reason, e.SchemaValidationErrors)
		}
	}
}

// TestRoutesAndSpecAgree: what is served is described, and what is described is served.
func TestRoutesAndSpecAgree(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	if err := yaml.Unmarshal(spec, &doc); err != nil {
		t.Fatal(err)
	}
	var described []string
	for path, item := range doc.Paths {
		for method := range item {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+path)
			}
		}
	}
	var served []string
	err := chi.Walk(New(Options{}).Handler(), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if route != "/" {
			route = strings.TrimSuffix(route, "/")
		}
		served = append(served, method+" "+strings.Replace(route, "/*", "/{path}", 1))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(described)
	slices.Sort(served)
	if !slices.Equal(described, served) {
		t.Errorf("described:\n%s\nserved:\n%s", strings.Join(described, "\n"), strings.Join(served, "\n"))
	}
}

// TestEveryMutationTakesAKey, and says so; but for those with a body that is a stream, and what a sandbox serves.
func TestEveryMutationTakesAKey(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	if err := yaml.Unmarshal(spec, &doc); err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths {
		for method, node := range item {
			if !slices.Contains([]string{"post", "patch", "delete"}, method) || strings.Contains(path, "/ports/") || strings.HasSuffix(path, "/stdin") {
				continue
			}
			var op struct {
				Parameters []map[string]any `yaml:"parameters"`
			}
			if err := node.Decode(&op); err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(op.Parameters, func(p map[string]any) bool { return p["$ref"] == "#/components/parameters/IdempotencyKey" }) {
				t.Errorf("%s %s: no parameter IdempotencyKey", method, path)
			}
		}
	}
}

// TestConformIsStrict: the check that every test here relies on does find faults.
func TestConformIsStrict(t *testing.T) {
	r := newRig(t, Limits{})
	for _, c := range []struct{ path, contentType, body string }{
		{"/healthz", "application/json", `{"status":"fine"}`},
		{"/v1/templates", "application/json", `{"items":[{"name":"x"}]}`},
		{"/v1/sandboxes", "application/json", `{"items":[]}`},
		{"/v1/sandboxes", "application/json", `{"items":[],"next_cursor":null,"more":1}`},
		{"/v1/sandboxes", "text/html", `<html>`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.server.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {c.contentType}, requestIDHeader: {"x"}}, Request: req}
		if found := faults(req, resp, c.body); found == 0 {
			t.Errorf("%s %s %s: no fault found", c.path, c.contentType, c.body)
		}
	}
}

// faults counts what conform finds.
func faults(req *http.Request, resp *http.Response, body string) int {
	probe := &recorder{}
	conform(probe, req, resp, []byte(body))
	return probe.errors
}

// recorder is a testing.TB that only counts.
type recorder struct {
	testing.TB
	errors int
}

func (r *recorder) Helper()               {}
func (r *recorder) Errorf(string, ...any) { r.errors++ }
func (r *recorder) Logf(string, ...any)   {}
func (r *recorder) Fatal(...any)          { r.errors++ }
