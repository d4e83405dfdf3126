package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

const aTemplate = `{"template":"minimal"}`

// keyed is call with an idempotency key.
func (r *rig) keyed(key, method, path, body string) answer {
	r.t.Helper()
	return r.call(method, path, body, idempotencyHeader, key)
}

// sql changes the database past the store.
func (r *rig) sql(statement string, args ...any) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.dbs.PostgresURL)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(r.t.Context(), statement, args...); err != nil {
		r.t.Fatal(err)
	}
}

// cutOff has the request with a key look as if its replica had died before it kept the answer.
func (r *rig) cutOff(key string) {
	r.t.Helper()
	r.sql(`UPDATE idempotency_keys SET state = 'running', status = NULL, headers = NULL, body = NULL, lease_until = now() - interval '1 s' WHERE key = $1`, key)
}

func (r *rig) refused(a answer, status int, code models.Code, says string) {
	r.t.Helper()
	if e := decoded[errorAnswer](r.t, a, status).Error; e.Code != code || !strings.Contains(e.Message, says) {
		r.t.Errorf("%+v; want %s and %q", e, code, says)
	}
}

// TestReplay: the answer to a request with a key is the answer to all of them, whatever became of things meanwhile.
func TestReplay(t *testing.T) {
	r := newRig(t, Limits{})
	sb := "/v1/sandboxes/" + r.create().ID
	for i, c := range []struct{ method, path, body string }{
		{"POST", "/v1/sandboxes", aTemplate},
		{"POST", sb + "/fork", `{"count":2}`},
		{"POST", sb + "/snapshots", `{"name":"n"}`},
		{"PATCH", sb, `{"lifecycle":{"auto_pause_after_seconds":600}}`},
		{"POST", sb + "/exec", `{"shell":"echo x; date +%N"}`},
		{"POST", sb + "/processes", `{"cmd":"true"}`},
		{"POST", sb + "/pause", ""},
		{"POST", sb + "/resume", ""},
		{"POST", "/v1/sandboxes", `{"template":"windows"}`},
		{"POST", "/v1/sandboxes/sb-00000000/pause", ""},
		{"DELETE", sb, ""},
	} {
		key := fmt.Sprintf("key-%d", i)
		first := r.keyed(key, c.method, c.path, c.body)
		again := r.keyed(key, c.method, c.path, c.body)
		if first.status != again.status || string(first.body) != string(again.body) || first.header.Get("Location") != again.header.Get("Location") ||
			first.header.Get(replayedHeader) != "" || again.header.Get(replayedHeader) != "true" {
			t.Errorf("%s %s: %d %s, then %d %s %v", c.method, c.path, first.status, first.body, again.status, again.body, again.header)
		}
	}
	if creates, _, _ := r.sim.Counts(); creates != 3 { // with the parent and the fork
		t.Errorf("%d sandboxes were created", creates)
	}
}

// TestKeyIsForOneRequest, of one account.
func TestKeyIsForOneRequest(t *testing.T) {
	r := newRig(t, Limits{})
	made := decoded[sandboxAnswer](t, r.keyed("k", "POST", "/v1/sandboxes", aTemplate), http.StatusCreated).ID
	r.refused(r.keyed("k", "POST", "/v1/sandboxes", `{"template":"minimal","name":"x"}`), http.StatusUnprocessableEntity, models.Invalid, "another request")
	r.refused(r.keyed("k", "POST", "/v1/sandboxes/"+made+"/pause", ""), http.StatusUnprocessableEntity, models.Invalid, "another request")
	r.refused(r.keyed("k", "DELETE", "/v1/sandboxes/"+made, ""), http.StatusUnprocessableEntity, models.Invalid, "another request")
	other := r.call("POST", "/v1/sandboxes", aTemplate, idempotencyHeader, "k", auth.Header, string(r.newKey("other")))
	if got := decoded[sandboxAnswer](t, other, http.StatusCreated).ID; got == made {
		t.Error("a key of one account gave the answer of another")
	}
	r.sql(`UPDATE idempotency_keys SET expires_at = now() - interval '1 s'`)
	if got := decoded[sandboxAnswer](t, r.keyed("k", "POST", "/v1/sandboxes", aTemplate), http.StatusCreated).ID; got == made {
		t.Error("an answer that has expired is given")
	}
	r.sql(`UPDATE idempotency_keys SET expires_at = now() - interval '1 s'`)
	if n, err := r.store.SweepKeys(t.Context(), 1); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if n, err := r.store.SweepKeys(t.Context(), 10); n != 1 || err != nil {
		t.Errorf("then swept %d, %v", n, err)
	}
}

// TestSameKeyAtTheSameTime: one is carried out, and the others wait for its answer, or are told.
func TestSameKeyAtTheSameTime(t *testing.T) {
	r := newRig(t, Limits{ClaimLease: time.Second, ClaimWait: 1500 * time.Millisecond})
	hold := make(chan struct{})
	var asked atomic.Int32
	r.sim.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error {
		asked.Add(1)
		<-hold
		return nil
	}, nil)
	ids := make([]string, 6)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			for {
				a := r.keyed("k", "POST", "/v1/sandboxes", aTemplate)
				if a.status != http.StatusConflict && a.status != http.StatusServiceUnavailable { // the latter where another one has taken over
					ids[i] = decoded[sandboxAnswer](t, a, http.StatusCreated).ID
					return
				}
				if a.header.Get("Retry-After") == "" {
					t.Errorf("no Retry-After: %s", a.body)
				}
			}
		})
	}
	r.eventually("the host is asked", func() bool { return asked.Load() > 0 })
	r.refused(r.keyed("k", "POST", "/v1/sandboxes", aTemplate), http.StatusConflict, models.Conflict, "under way") // its lease has been renewed
	close(hold)
	wg.Wait()
	for _, got := range ids {
		if got != ids[0] {
			t.Errorf("answers name %v", ids)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("the host was asked %d times", asked.Load())
	}
}

// TestReplicaDiesBeforeItsAnswer: what it has made is found again; what went on inside a sandbox is not done twice.
func TestReplicaDiesBeforeItsAnswer(t *testing.T) {
	r := newRig(t, Limits{})
	made := decoded[sandboxAnswer](t, r.keyed("create", "POST", "/v1/sandboxes", aTemplate), http.StatusCreated).ID
	sb := "/v1/sandboxes/" + made
	type items struct{ Items []sandboxAnswer }
	forks := decoded[items](t, r.keyed("fork", "POST", sb+"/fork", `{"count":2}`), http.StatusCreated).Items
	kept := decoded[snapshotAnswer](t, r.keyed("snapshot", "POST", sb+"/snapshots", `{"name":"n"}`), http.StatusCreated).ID
	before := len(r.list("").Items)
	for _, key := range []string{"create", "fork", "snapshot"} {
		r.cutOff(key)
	}
	if got := decoded[sandboxAnswer](t, r.keyed("create", "POST", "/v1/sandboxes", aTemplate), http.StatusCreated).ID; got != made {
		t.Errorf("the create made %s, then %s", made, got)
	}
	if got := decoded[items](t, r.keyed("fork", "POST", sb+"/fork", `{"count":2}`), http.StatusCreated).Items; got[0].ID != forks[0].ID || got[1].ID != forks[1].ID {
		t.Errorf("the fork made %v, then %v", forks, got)
	}
	if got := decoded[snapshotAnswer](t, r.keyed("snapshot", "POST", sb+"/snapshots", `{"name":"n"}`), http.StatusCreated).ID; got != kept {
		t.Errorf("the snapshot is %s, then %s", kept, got)
	}
	if after := len(r.list("").Items); after != before {
		t.Errorf("there were %d sandboxes, now %d", before, after)
	}
	for _, c := range []struct{ key, method, path, body string }{
		{"exec", "POST", sb + "/exec", `{"cmd":"true"}`}, {"context", "POST", sb + "/files/mkdir", `{"path":"` + t.TempDir() + `/d"}`},
	} {
		r.keyed(c.key, c.method, c.path, c.body)
		r.cutOff(c.key)
		for range 2 { // the second is a replay
			r.refused(r.keyed(c.key, c.method, c.path, c.body), http.StatusConflict, models.Conflict, "cut off")
		}
	}
	r.keyed("delete", "DELETE", "/v1/snapshots/"+kept, "")
	r.cutOff("delete")
	if a := r.keyed("delete", "DELETE", "/v1/snapshots/"+kept, ""); a.status != http.StatusNoContent {
		t.Errorf("delete again: %d %s", a.status, a.body)
	}
}

// TestWhatMayPassIsNotKept: after an answer that says so, a request with the same key is a new attempt.
func TestWhatMayPassIsNotKept(t *testing.T) {
	r := newRig(t, Limits{})
	r.sim.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error {
		return grpcstatus.Error(codes.Internal, "not now")
	}, nil)
	if a := r.keyed("k", "POST", "/v1/sandboxes", aTemplate); a.status < http.StatusInternalServerError {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.sim.OnCreate(nil, nil)
	made := decoded[sandboxAnswer](t, r.keyed("k", "POST", "/v1/sandboxes", aTemplate), http.StatusCreated)
	if got := r.keyed("k", "POST", "/v1/sandboxes", aTemplate); got.header.Get(replayedHeader) == "" || made.State != models.Running {
		t.Errorf("%+v, then %s", made, got.body)
	}
}

// TestLargeAnswerIsNotKept, and the program is not run again.
func TestLargeAnswerIsNotKept(t *testing.T) {
	r := newRig(t, Limits{Output: 2 << 20})
	sb := "/v1/sandboxes/" + r.create().ID
	program := `{"shell":"head -c 1500000 /dev/zero | tr '\\0' x"}`
	if a := r.keyed("k", "POST", sb+"/exec", program); a.status != http.StatusOK || len(a.body) < 1500000 {
		t.Fatalf("%d, %d bytes", a.status, len(a.body))
	}
	r.refused(r.keyed("k", "POST", sb+"/exec", program), http.StatusConflict, models.Conflict, "larger than")
}

// TestBadKeys.
func TestBadKeys(t *testing.T) {
	r := newRig(t, Limits{JSONBody: 4096})
	sb := "/v1/sandboxes/" + r.create().ID
	for name, key := range map[string]string{"long": strings.Repeat("k", 256), "blank": "a b", "no ASCII": "schlüssel", "control": "a\tb"} {
		a := r.keyed(key, "POST", "/v1/sandboxes", aTemplate)
		if e := decoded[errorAnswer](t, a, http.StatusBadRequest).Error; e.Code != models.Invalid || !strings.Contains(e.Message, idempotencyHeader) {
			t.Errorf("%s: %+v", name, e)
		}
	}
	r.refused(r.call("POST", sb+"/exec", `{"cmd":"true"}`, idempotencyHeader, "k", "Accept", eventStream), http.StatusBadRequest, models.Invalid, "stream")
	r.refused(r.call("POST", sb+"/processes/1/stdin", "x", idempotencyHeader, "k"), http.StatusBadRequest, models.Invalid, "stream")
	r.refused(r.keyed("big", "POST", sb+"/exec", `{"cmd":"`+strings.Repeat("x", 5000)+`"}`), http.StatusRequestEntityTooLarge, models.Invalid, "4096")
	req := r.request("POST", "/v1/sandboxes", aTemplate)
	req.Header[idempotencyHeader] = []string{"a", "b"}
	r.refused(r.send(req), http.StatusBadRequest, models.Invalid, "more than one")
}

// TestSecretsAreNotKept: an answer that nobody is to store is not stored to be given again.
func TestSecretsAreNotKept(t *testing.T) {
	r := newRig(t, Limits{})
	const body = `{"name":"ci","scopes":["guest"]}`
	made := r.keyed("k", "POST", "/v1/api-keys", body)
	secret := decoded[keyAnswer](t, made, http.StatusCreated).Key
	r.refused(r.keyed("k", "POST", "/v1/api-keys", body), http.StatusConflict, models.Conflict, "is not kept")
	if list := r.call("GET", "/v1/api-keys", ""); strings.Count(string(list.body), `"name":"ci"`) != 1 {
		t.Errorf("the keys are %s", list.body)
	}
	conn, err := pgx.Connect(t.Context(), r.dbs.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var kept int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM idempotency_keys WHERE position(convert_to($1, 'UTF8') in body) > 0`, secret).Scan(&kept); err != nil || kept != 0 {
		t.Errorf("the secret is in %d rows, %v", kept, err)
	}
}
