package lifetest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// sandbox is what is known of a sandbox by what was asked for and answered.
type sandbox struct {
	id       id.Sandbox
	may      map[models.State]bool // that it can be in when nothing is under way
	metadata map[string]bool       // the values of its label that it may have
	stormy   bool                  // what was asked of it has come to no known end
}

// is says that it was brought into a state. What was asked of it before, and has come to no known end, may still come.
func (s *sandbox) is(state models.State) {
	if !s.stormy || state == models.Stopped { // which is for good
		s.may = map[models.State]bool{}
	}
	s.may[state] = true
}

// perhaps says that it may be in others, too. What its host has begun and nobody has heard of may have failed.
func (s *sandbox) perhaps(a answer, states ...models.State) {
	if a.unknown() {
		s.stormy = true
		states = append(states, models.Failed)
	}
	if slices.Contains(states, models.Running) && s.may[models.Hibernated] {
		states = append(states, models.Paused) // it was fetched, and has not been resumed
	}
	for _, state := range states {
		s.may[state] = true
	}
}

// lane is a user who does one thing after the other.
type lane struct {
	w         *world
	account   id.Account
	key       auth.Secret
	sandboxes []*sandbox
	snapshots []id.Snapshot
	unknown   int // children and sandboxes that may have been made beside those
	wrong     []string
}

// answer is what a replica has said. Status 0: it has said nothing, and perhaps done what it was asked.
type answer struct {
	status int
	body   []byte
}

// unknown tells whether what was asked may have been done, or may be done still.
func (a answer) unknown() bool {
	return a.status == 0 || a.status >= http.StatusInternalServerError || a.status == http.StatusConflict
}

func (a answer) ok() bool { return a.status >= 200 && a.status < 300 }

// again is how often a request is repeated, with the same idempotency key, at the next replica.
const again = 3

// call asks a replica, and while it does not know what it has done the next one.
func (l *lane) call(replica int, method, path, body string) (a answer) {
	key := string(id.NewRequest())
	for try := range again {
		a = l.once(l.w.replica(replica+try), key, method, path, body)
		if !a.unknown() {
			return a
		}
	}
	return a
}

// requestLimit bounds a request of a user.
const requestLimit = 4 * soon

func (l *lane) once(r *replica, key, method, path, body string) (a answer) {
	defer func() { // a connection that was cut off: http.ErrAbortHandler
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			panic(v)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	req := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	req.Header.Set(auth.Header, string(l.key))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if method != http.MethodGet {
		req.Header.Set("Idempotency-Key", key)
	}
	rec := httptest.NewRecorder()
	r.handler.ServeHTTP(rec, req)
	return answer{rec.Code, rec.Body.Bytes()}
}

func (l *lane) fault(format string, args ...any) {
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// do does one thing.
func (l *lane) do(o op) {
	if do := sandboxOps[o.Kind]; do != nil {
		if len(l.sandboxes) > 0 {
			do(l, l.sandboxes[o.Pick%len(l.sandboxes)], o)
		}
		return
	}
	switch o.Kind {
	case "create":
		l.create(o.Replica, `{"template":"minimal"}`)
	case "burst":
		l.burst()
	case "from snapshot":
		if len(l.snapshots) > 0 {
			l.create(o.Replica, fmt.Sprintf(`{"snapshot":%q}`, l.snapshots[o.Pick%len(l.snapshots)]))
		}
	default:
		l.w.trouble(l, o)
	}
}

// sandboxOps are what can be done to a sandbox.
var sandboxOps = map[string]func(*lane, *sandbox, op){
	"pause":     change("pause", models.Paused),
	"resume":    change("resume", models.Running),
	"hibernate": change("hibernate", models.Hibernated, models.Paused, models.Running),
	"exec":      (*lane).exec,
	"fork":      (*lane).fork,
	"snapshot":  (*lane).snapshot,
	"destroy":   (*lane).destroy,
	"metadata":  (*lane).setMetadata,
	"policy":    (*lane).setPolicy,
	"VM dies":   (*lane).killVM,
}
