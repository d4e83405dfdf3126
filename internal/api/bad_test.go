package api

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestBadInput: each gets its status, its code, and a message that names what is wrong.
func TestBadInput(t *testing.T) {
	r := newRig(t, Limits{JSONBody: 4096, Upload: 8192})
	sb := "/v1/sandboxes/" + r.create().ID
	other := r.create().ID
	full, dir := "/v1/sandboxes/"+other, t.TempDir()
	r.sim.Script(other, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("path") == "/secret" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"code":403,"message":"the user may not open /secret"}`)
			return
		}
		w.WriteHeader(http.StatusInsufficientStorage)
		_, _ = io.WriteString(w, `{"code":507,"message":"no space left on the disk"}`)
	}))
	before := len(r.list("").Items)
	key := string(r.key)
	revoked := string(auth.NewSecret())
	big := strings.Repeat("x", 5000)
	create, exec := "POST /v1/sandboxes", "POST "+sb+"/exec"
	for _, c := range []struct {
		name   string
		what   string // method and path
		body   string
		header string // lines of "Name: value", or "Name:" to leave it out
		status int
		code   models.Code
		says   string
	}{
		{"no key", "GET /v1/sandboxes", "", "X-API-Key:", 401, models.Unauthenticated, "no API key"},
		{"malformed key", "GET /v1/sandboxes", "", "X-API-Key: wrn_XYZ", 401, models.Unauthenticated, "malformed"},
		{"upper-case key", "GET /v1/sandboxes", "", "X-API-Key: " + strings.ToUpper(key), 401, models.Unauthenticated, "malformed"},
		{"unknown key", "GET /v1/sandboxes", "", "X-API-Key: " + revoked, 401, models.Unauthenticated, "not valid"},
		{"no key before anything else", "POST /v1/nothing", "{", "X-API-Key:", 401, models.Unauthenticated, "no API key"},
		{"key in the wrong header", "GET /v1/sandboxes", "", "X-API-Key: ", 401, models.Unauthenticated, "no API key"},

		{"unknown path", "GET /v2/sandboxes", "", "", 404, models.NotFound, "/v2/sandboxes"},
		{"unknown path in v1", "GET /v1/sandboxen", "", "", 404, models.NotFound, "/v1/sandboxen"},
		{"unknown path of a sandbox", "GET " + sb + "/nope", "", "", 404, models.NotFound, "/nope"},
		{"wrong method", "PATCH /v1/sandboxes", "{}", "", 405, models.Invalid, "PATCH"},
		{"wrong method on exec", "GET " + sb + "/exec", "", "", 405, models.Invalid, "GET"},
		{"wrong method on files", "PATCH " + sb + "/files" + dir + "/x", "", "", 405, models.Invalid, "PATCH"},
		{"wrong method on health", "POST /healthz", "{}", "", 405, models.Invalid, "POST"},

		{"no content type", create, `{"template":"minimal"}`, "Content-Type:", 415, models.Invalid, "JSON"},
		{"wrong content type", create, `{"template":"minimal"}`, "Content-Type: text/plain", 415, models.Invalid, "JSON"},
		{"form", create, "template=minimal", "Content-Type: application/x-www-form-urlencoded", 415, models.Invalid, "JSON"},
		{"empty body", create, "", "Content-Type: application/json", 400, models.Invalid, "empty"},
		{"blank body", create, "  \n ", "", 400, models.Invalid, "empty"},
		{"truncated", create, `{"template":"min`, "", 400, models.Invalid, "not JSON"},
		{"truncated after a value", create, `{"template":"minimal"`, "", 400, models.Invalid, "not JSON"},
		{"not JSON", create, `template: minimal`, "", 400, models.Invalid, "not JSON"},
		{"array", create, `[1]`, "", 400, models.Invalid, "object"},
		{"null", create, `null`, "", 400, models.Invalid, "object"},
		{"string", create, `"x"`, "", 400, models.Invalid, "object"},
		{"two values", create, `{"template":"minimal"} {}`, "", 400, models.Invalid, "after"},
		{"something after", create, `{"template":"minimal"}x`, "", 400, models.Invalid, "after"},
		{"unknown member", create, `{"template":"minimal","vcpu":1}`, "", 400, models.Invalid, `"vcpu"`},
		{"member in another case", create, `{"Template":"minimal"}`, "", 400, models.Invalid, `"Template"`},
		{"member twice", create, `{"template":"minimal","template":"x"}`, "", 400, models.Invalid, "twice"},
		{"null member", create, `{"template":"minimal","vcpus":null}`, "", 400, models.Invalid, "vcpus must not be null"},
		{"not UTF-8", create, "{\"template\":\"\xff\"}", "", 400, models.Invalid, "UTF-8"},
		{"too large", create, `{"template":"` + big + `"}`, "", 413, models.Invalid, "4096"},
		{"deeply nested", create, `{"metadata":` + strings.Repeat("[", 2000) + `}`, "", 400, models.Invalid, "not JSON"},
		{"too many levels", create, `{"metadata":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`, "", 400, models.Invalid, "metadata"},

		{"no template", create, `{}`, "", 400, models.Invalid, "template is required"},
		{"empty template", create, `{"template":""}`, "", 400, models.Invalid, "template is required"},
		{"unknown template", create, `{"template":"windows"}`, "", 404, models.NotFound, `"windows"`},
		{"long template", create, `{"template":"` + strings.Repeat("t", 65) + `"}`, "", 400, models.Invalid, "64"},
		{"NUL in template", create, `{"template":"a\u0000"}`, "", 400, models.Invalid, "NUL"},
		{"template of wrong type", create, `{"template":7}`, "", 400, models.Invalid, "template must be a string, not number"},
		{"vcpus as a string", create, `{"template":"minimal","vcpus":"1"}`, "", 400, models.Invalid, "vcpus must be an integer, not string"},
		{"vcpus as a fraction", create, `{"template":"minimal","vcpus":1.5}`, "", 400, models.Invalid, "vcpus must be an integer, not number 1.5"},
		{"vcpus 0", create, `{"template":"minimal","vcpus":0}`, "", 400, models.Invalid, "vcpus"},
		{"vcpus negative", create, `{"template":"minimal","vcpus":-1}`, "", 400, models.Invalid, "vcpus"},
		{"vcpus 33", create, `{"template":"minimal","vcpus":33}`, "", 400, models.Invalid, "vcpus"},
		{"vcpus beyond 64 bits", create, `{"template":"minimal","vcpus":99999999999999999999}`, "", 400, models.Invalid, "vcpus"},
		{"memory 0", create, `{"template":"minimal","memory_mib":0}`, "", 400, models.Invalid, "memory_mib"},
		{"memory 127", create, `{"template":"minimal","memory_mib":127}`, "", 400, models.Invalid, "memory_mib"},
		{"memory 65537", create, `{"template":"minimal","memory_mib":65537}`, "", 400, models.Invalid, "memory_mib"},
		{"disk negative", create, `{"template":"minimal","disk_mib":-1}`, "", 400, models.Invalid, "disk_mib"},
		{"disk below the template's", create, `{"template":"minimal","disk_mib":511}`, "", 400, models.Invalid, "disk_mib"},
		{"disk beyond the limit", create, `{"template":"minimal","disk_mib":1048577}`, "", 400, models.Invalid, "disk_mib"},
		{"disk beyond 32 bits", create, `{"template":"minimal","disk_mib":4294967808}`, "", 400, models.Invalid, "disk_mib"},
		{"long name", create, `{"template":"minimal","name":"` + strings.Repeat("ü", 129) + `"}`, "", 400, models.Invalid, "name"},
		{"newline in name", create, `{"template":"minimal","name":"a\nb"}`, "", 400, models.Invalid, "name"},
		{"metadata of wrong type", create, `{"template":"minimal","metadata":{"a":1}}`, "", 400, models.Invalid, "metadata"},
		{"metadata as an array", create, `{"template":"minimal","metadata":[]}`, "", 400, models.Invalid, "metadata"},
		{"empty key of metadata", create, `{"template":"minimal","metadata":{"":"x"}}`, "", 400, models.Invalid, "metadata"},
		{"null in metadata", create, `{"template":"minimal","metadata":{"a":null}}`, "", 400, models.Invalid, "metadata: a must not be null"},
		{"null in env", create, `{"template":"minimal","env":{"A":null}}`, "", 400, models.Invalid, "env: A must not be null"},
		{"null in args", exec, `{"cmd":"ls","args":["a",null]}`, "", 400, models.Invalid, "args: element 2 must not be null"},
		{"patch of nothing", "PATCH " + sb, `{}`, "", 400, models.Invalid, "changes nothing"},
		{"patch of what cannot be changed", "PATCH " + sb, `{"name":"x"}`, "", 400, models.Invalid, `"name"`},
		{"patch with bad metadata", "PATCH " + sb, `{"metadata":{"":"x"}}`, "", 400, models.Invalid, "metadata"},
		{"patch with too much metadata", "PATCH " + sb, `{"metadata":` + object(65) + `}`, "", 400, models.Invalid, "64"},
		{"patch of an unknown sandbox", "PATCH /v1/sandboxes/sb-00000000", `{"metadata":{}}`, "", 404, models.NotFound, "sb-00000000"},
		{"filter by no label", "GET /v1/sandboxes?metadata.=x", "", "", 400, models.Invalid, "metadata"},
		{"filter by a label twice", "GET /v1/sandboxes?metadata.a=x&metadata.a=y", "", "", 400, models.Invalid, "twice"},
		{"NUL in a label", "GET /v1/sandboxes?metadata.a=%00", "", "", 400, models.Invalid, "NUL"},
		{"filter by metadata as a whole", "GET /v1/sandboxes?metadata=x", "", "", 400, models.Invalid, `"metadata"`},
		{"body too large for a key", create, `{"template":"` + big + `"}`, "Idempotency-Key: k", 413, models.Invalid, "4096"},
		{"blank in a key", create, `{"template":"minimal"}`, "Idempotency-Key: a b", 400, models.Invalid, "Idempotency-Key"},
		{"key of a stream", exec, `{"cmd":"ls"}`, "Idempotency-Key: k\nAccept: text/event-stream", 400, models.Invalid, "stream"},
		{"events after no event", "GET /v1/events", "", "Accept: text/event-stream\nLast-Event-ID: x", 400, models.Invalid, "Last-Event-ID"},
		{"events of a malformed id", "GET /v1/events?sandbox=x", "", "", 400, models.Invalid, "sb-xxxxxxxx"},
		{"NUL in metadata", create, `{"template":"minimal","metadata":{"a":"\u0000"}}`, "", 400, models.Invalid, "NUL"},
		{"long value of metadata", create, `{"template":"minimal","metadata":{"a":"` + big[:1025] + `"}}`, "", 400, models.Invalid, "1024"},
		{"too much metadata", create, `{"template":"minimal","metadata":` + object(65) + `}`, "", 400, models.Invalid, "64"},
		{"bad env name", create, `{"template":"minimal","env":{"A-B":"x"}}`, "", 400, models.Invalid, "A-B"},
		{"empty env name", create, `{"template":"minimal","env":{"":"x"}}`, "", 400, models.Invalid, "environment"},
		{"NUL in env", create, `{"template":"minimal","env":{"A":"\u0000"}}`, "", 400, models.Invalid, "NUL"},
		{"too much env", create, `{"template":"minimal","env":` + object(257) + `}`, "", 400, models.Invalid, "256"},
		{"query on create", create + "?x=1", `{"template":"minimal"}`, "", 400, models.Invalid, `"x"`},

		{"malformed id", "GET /v1/sandboxes/sb-XYZ", "", "", 400, models.Invalid, "sb-xxxxxxxx"},
		{"id of another kind", "GET /v1/sandboxes/key-00000000", "", "", 400, models.Invalid, "sb-xxxxxxxx"},
		{"SQL as id", "GET /v1/sandboxes/sb-0'%20OR%201=1", "", "", 400, models.Invalid, "sb-xxxxxxxx"},
		{"unknown id", "GET /v1/sandboxes/sb-00000000", "", "", 404, models.NotFound, "sb-00000000"},
		{"unknown id of destroy", "DELETE /v1/sandboxes/sb-00000000", "", "", 404, models.NotFound, "sb-00000000"},
		{"unknown id of exec", "POST /v1/sandboxes/sb-00000000/exec", `{"cmd":"true"}`, "", 404, models.NotFound, "sb-00000000"},
		{"unknown id of a file", "GET /v1/sandboxes/sb-00000000/files/x", "", "", 404, models.NotFound, "sb-00000000"},
		{"unknown id of logs", "GET /v1/sandboxes/sb-00000000/logs", "", "", 404, models.NotFound, "sb-00000000"},
		{"unknown id of events", "GET /v1/sandboxes/sb-00000000/events", "", "", 404, models.NotFound, "sb-00000000"},

		{"limit 0", "GET /v1/sandboxes?limit=0", "", "", 400, models.Invalid, "limit"},
		{"limit 201", "GET /v1/sandboxes?limit=201", "", "", 400, models.Invalid, "limit"},
		{"limit no number", "GET /v1/sandboxes?limit=ten", "", "", 400, models.Invalid, "limit"},
		{"limit empty", "GET /v1/sandboxes?limit=", "", "", 400, models.Invalid, "limit"},
		{"limit twice", "GET /v1/sandboxes?limit=1&limit=2", "", "", 400, models.Invalid, "twice"},
		{"unknown state", "GET /v1/sandboxes?state=sleeping", "", "", 400, models.Invalid, `"sleeping"`},
		{"empty state", "GET /v1/sandboxes?state=", "", "", 400, models.Invalid, "state"},
		{"unknown filter", "GET /v1/sandboxes?status=running", "", "", 400, models.Invalid, `"status"`},
		{"NUL in a filter", "GET /v1/sandboxes?template=%00", "", "", 400, models.Invalid, "NUL"},
		{"malformed query", "GET /v1/sandboxes?a=%zz", "", "", 400, models.Invalid, "query"},
		{"foreign cursor", "GET /v1/sandboxes?cursor=abc", "", "", 400, models.Invalid, "cursor"},
		{"forged cursor", "GET /v1/sandboxes?cursor=" + cursor("9223372036854775807 sb-00000000"), "", "", 400, models.Invalid, "cursor"},
		{"cursor with SQL", "GET /v1/sandboxes?cursor=" + cursor("1 sb-0'; DROP TABLE sandboxes"), "", "", 400, models.Invalid, "cursor"},

		{"neither cmd nor shell", exec, `{}`, "", 400, models.Invalid, "cmd or shell"},
		{"cmd and shell", exec, `{"cmd":"ls","shell":"ls"}`, "", 400, models.Invalid, "cmd or shell"},
		{"args with shell", exec, `{"shell":"ls","args":["x"]}`, "", 400, models.Invalid, "args"},
		{"args of wrong type", exec, `{"cmd":"ls","args":"-l"}`, "", 400, models.Invalid, "args must be an array"},
		{"element of args of wrong type", exec, `{"cmd":"ls","args":[1]}`, "", 400, models.Invalid, "args"},
		{"NUL in args", exec, `{"cmd":"ls","args":["\u0000"]}`, "", 400, models.Invalid, "NUL"},
		{"NUL in cwd", exec, `{"cmd":"ls","cwd":"\u0000"}`, "", 400, models.Invalid, "NUL"},
		{"timeout 0", exec, `{"cmd":"ls","timeout_seconds":0}`, "", 400, models.Invalid, "timeout_seconds"},
		{"timeout negative", exec, `{"cmd":"ls","timeout_seconds":-1}`, "", 400, models.Invalid, "timeout_seconds"},
		{"timeout of years", exec, `{"cmd":"ls","timeout_seconds":1e300}`, "", 400, models.Invalid, "timeout_seconds"},
		{"timeout as text", exec, `{"cmd":"ls","timeout_seconds":"1m"}`, "", 400, models.Invalid, "timeout_seconds must be a number"},
		{"unknown encoding", exec, `{"cmd":"ls","encoding":"hex"}`, "", 400, models.Invalid, "encoding"},
		{"unknown command", exec, `{"cmd":"nope"}`, "", 400, models.Invalid, "command not found: nope"},
		{"unknown command, streamed", exec, `{"cmd":"nope"}`, "Accept: text/event-stream", 400, models.Invalid, "command not found: nope"},
		{"exec body too large", exec, `{"cmd":"cat","stdin":"` + big + `"}`, "", 413, models.Invalid, "4096"},
		{"exec content type", exec, `{"cmd":"ls"}`, "Content-Type: text/plain", 415, models.Invalid, "JSON"},

		{"no path", "GET " + sb + "/files", "", "", 400, models.Invalid, "path is required"},
		{"empty path", "GET " + sb + "/files?path=", "", "", 400, models.Invalid, "path is required"},
		{"content of the root", "PUT " + sb + "/files/", "x", "", 400, models.Invalid, "directory"},
		{"path twice", "GET " + sb + "/files?path=/a&path=/b", "", "", 400, models.Invalid, "twice"},
		{"path in both", "GET " + sb + "/files/a?path=/b", "", "", 400, models.Invalid, `"path"`},
		{"dots", "GET " + sb + "/files?path=/a/../etc/shadow", "", "", 400, models.Invalid, ".."},
		{"relative dots", "GET " + sb + "/files?path=../x", "", "", 400, models.Invalid, ".."},
		{"escaped dots in the URL", "GET " + sb + "/files/a/%2e%2e/%2e%2e/etc", "", "", 400, models.Invalid, ".."},
		{"escaped slashes and dots", "GET " + sb + "/files/a%2f..%2f..%2fetc", "", "", 400, models.Invalid, ".."},
		{"NUL in path", "GET " + sb + "/files?path=/a%00b", "", "", 400, models.Invalid, "NUL"},
		{"NUL in the URL", "GET " + sb + "/files/a%00b", "", "", 400, models.Invalid, "NUL"},
		{"path no UTF-8", "GET " + sb + "/files?path=/%ff", "", "", 400, models.Invalid, "UTF-8"},
		{"path too long", "GET " + sb + "/files?path=/" + big, "", "", 400, models.Invalid, "4096"},
		{"a directory's name", "PUT " + sb + "/files" + dir + "/a/", "x", "", 400, models.Invalid, "directory"},
		{"a missing file", "GET " + sb + "/files" + dir + "/nope", "", "", 404, models.NotFound, "/nope"},
		{"a forbidden file", "GET " + full + "/files/secret", "", "", 403, models.Forbidden, "/secret"},
		{"a forbidden upload", "PUT " + full + "/files/secret", "x", "", 403, models.Forbidden, "/secret"},
		{"unknown parameter of a file", "GET " + sb + "/files/x?mode=1", "", "", 400, models.Invalid, `"mode"`},
		{"a form as upload", "PUT " + sb + "/files" + dir + "/x", "x", "Content-Type: multipart/form-data; boundary=b", 415, models.Invalid, "form"},
		{"an upload too large", "PUT " + sb + "/files" + dir + "/x", big + big, "", 413, models.Invalid, "8192"},
		{"an upload for which there is no room", "PUT " + full + "/files/x", "x", "", 429, models.Exhausted, "space"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := *r
			r.t = t
			method, path, _ := strings.Cut(c.what, " ")
			var headers []string
			for line := range strings.Lines(c.header) {
				name, value, _ := strings.Cut(line, ":")
				headers = append(headers, name, strings.TrimSpace(value))
			}
			a := r.call(method, path, c.body, headers...)
			e := decoded[errorAnswer](t, a, c.status).Error
			if e.Code != c.code || !strings.Contains(e.Message, c.says) {
				t.Errorf("%+v; want code %s and a message with %q", e, c.code, c.says)
			}
			if e.RequestID == "" || e.RequestID != a.header.Get(requestIDHeader) {
				t.Errorf("request id %q in the body, %q in the header", e.RequestID, a.header.Get(requestIDHeader))
			}
			if (c.status == http.StatusMethodNotAllowed) != (a.header.Get("Allow") != "") {
				t.Errorf("%d with Allow %q", c.status, a.header.Get("Allow"))
			}
		})
	}
	if after := len(r.list("").Items); after != before {
		t.Errorf("bad requests made %d sandboxes", after-before)
	}
	empty(t, dir)
}

func object(members int) string {
	var parts []string
	for i := range members {
		parts = append(parts, fmt.Sprintf(`"A%d":"x"`, i))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func cursor(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestAllowNamesTheMethods(t *testing.T) {
	r := newRig(t, Limits{})
	for path, want := range map[string]string{
		"/v1/sandboxes": "GET, POST", "/v1/sandboxes/sb-00000000": "GET, PATCH, DELETE",
		"/v1/sandboxes/sb-00000000/files/a%2Fb": "GET, PUT, DELETE", "/healthz": "GET",
	} {
		if a := r.call("TRACE", path, "{}"); a.header.Get("Allow") != want {
			t.Errorf("%s: Allow %q, want %q", path, a.header.Get("Allow"), want)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	r := newRig(t, Limits{})
	if a := r.call("GET", "/healthz", "", requestIDHeader, "mine-1.a_B"); a.header.Get(requestIDHeader) != "mine-1.a_B" {
		t.Errorf("a good id became %q", a.header.Get(requestIDHeader))
	}
	for _, bad := range []string{"", strings.Repeat("x", 65), "a b", "a\"b", "ü"} {
		if a := r.call("GET", "/healthz", "", requestIDHeader, bad); !strings.HasPrefix(a.header.Get(requestIDHeader), "req-") {
			t.Errorf("the id %q became %q", bad, a.header.Get(requestIDHeader))
		}
	}
}

// TestLogKeepsSecrets: neither keys nor queries get into the log, and each request gets a line.
func TestLogKeepsSecrets(t *testing.T) {
	r := newRig(t, Limits{})
	r.call("GET", "/v1/sandboxes?template=my-secret-query", "")
	r.call("GET", "/v1/sandboxes", "", auth.Header, "wrn_wrong")
	log := r.log.String()
	for _, secret := range []string{string(r.key), string(r.key)[4:], "my-secret-query", "wrn_wrong"} {
		if strings.Contains(log, secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
	for _, part := range []string{"msg=request", "path=/v1/sandboxes", "status=200", "status=401", "key_id=key-", "account_id=acc-"} {
		if !strings.Contains(log, part) {
			t.Errorf("%q is not in the log:\n%s", part, log)
		}
	}
}
