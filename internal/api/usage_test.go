package api

import (
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

type usedAnswer struct {
	VCPU   json.Number                                        `json:"vcpu_seconds"`
	Memory json.Number                                        `json:"memory_gib_seconds"`
	Stored struct{ Paused, Hibernated, Snapshot json.Number } `json:"stored_gib_hours"`
}

type usageAnswer struct {
	From, To time.Time
	Total    usedAnswer
	Items    []struct {
		Day     *string
		Sandbox *string `json:"sandbox_id"`
		Used    usedAnswer
	}
	Next *string `json:"next_cursor"`
}

func (r *rig) usage(query string) usageAnswer {
	r.t.Helper()
	return decoded[usageAnswer](r.t, r.call("GET", "/v1/usage"+query, ""), http.StatusOK)
}

// number reads a number exactly.
func number(t *testing.T, n json.Number) *big.Rat {
	t.Helper()
	r, ok := new(big.Rat).SetString(n.String())
	if !ok {
		t.Fatalf("%q is no number", n)
	}
	return r
}

// past writes times in a sandbox's usage that are known beforehand: it ran for 36 hours of the first three days of March, and slept for two days.
func (r *rig) past(sb string) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.dbs.PostgresURL)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(r.t.Context())
	_, err = conn.Exec(r.t.Context(), `INSERT INTO usage_periods (account_id, sandbox_id, kind, vcpus, memory_mib, stored_mib, begun_at, ended_at)
		SELECT account_id, id, p.* FROM sandboxes, (VALUES
			('running', 2, 512, 0, timestamptz '2025-03-01T18:00:00Z', timestamptz '2025-03-03T06:00:00Z'),
			('paused', 0, 0, 1536, timestamptz '2025-03-03T06:00:00Z', timestamptz '2025-03-05T06:00:00.000001Z')) AS p WHERE id = $1`, sb)
	if err != nil {
		r.t.Fatal(err)
	}
}

// TestUsageOverREST: what was used is there in all, by day and by sandbox, and no other account's.
func TestUsageOverREST(t *testing.T) {
	r := newRig(t, Limits{})
	one, two := r.create().ID, r.create().ID
	r.past(one)
	r.past(two)
	const march = "?from=2025-03-01T00:00:00Z&to=2025-04-01T00:00:00Z"
	all := r.usage(march)
	if all.Total.VCPU != "518400" || all.Total.Memory != "129600" || all.Total.Stored.Paused != "144" || all.Total.Stored.Hibernated != "0" || len(all.Items) != 0 || all.Next != nil {
		t.Errorf("of March: %+v", all)
	}
	if part := r.usage("?from=2025-03-05T05:59:59Z&to=2025-03-06T00:00:00Z").Total; part.Stored.Paused != "0.000833334" || part.VCPU != "0" {
		t.Errorf("of its last second and a microsecond: %+v", part)
	}
	days := r.usage(march + "&by=day")
	if len(days.Items) != 5 || *days.Items[0].Day != "2025-03-01" || days.Items[0].Used.VCPU != "86400" || days.Items[1].Used.VCPU != "345600" || days.Items[3].Used.Stored.Paused != "72" {
		t.Errorf("by day: %+v", days)
	}
	page := r.usage(march + "&by=sandbox&limit=1")
	next := r.usage(march + "&by=sandbox&limit=1&cursor=" + *page.Next)
	if *page.Items[0].Sandbox != min(one, two) || *next.Items[0].Sandbox != max(one, two) || next.Next != nil || next.Items[0].Used.VCPU != "259200" || next.Total != all.Total {
		t.Errorf("by sandbox: %+v, %+v", page, next)
	}
	if a := r.call("GET", "/v1/usage"+march, "", auth.Header, string(r.newKey("other"))); !strings.Contains(string(a.body), `"vcpu_seconds":0,`) {
		t.Errorf("another account's: %s", a.body)
	}
}

// TestUsageGrows: what goes on is counted up to now, and what has ended stays as it is.
func TestUsageGrows(t *testing.T) {
	r := newRig(t, Limits{})
	sb := "/v1/sandboxes/" + r.create().ID
	used := func() (vcpu, paused *big.Rat) {
		u := r.usage("").Total
		return number(t, u.VCPU), number(t, u.Stored.Paused)
	}
	first, _ := used()
	if second, _ := used(); first.Sign() <= 0 || second.Cmp(first) <= 0 {
		t.Errorf("of one that runs: %s, then %s", first, second)
	}
	if a := r.call("POST", sb+"/pause", ""); a.status != http.StatusOK {
		t.Fatalf("pause: %d %s", a.status, a.body)
	}
	ran, slept := used()
	if again, longer := used(); again.Cmp(ran) != 0 || longer.Cmp(slept) <= 0 {
		t.Errorf("of one that sleeps: ran %s, then %s; slept %s, then %s", ran, again, slept, longer)
	}
	if a := r.call("DELETE", sb, ""); a.status >= 300 {
		t.Fatalf("destroy: %d %s", a.status, a.body)
	}
	ran, slept = used()
	if again, still := used(); again.Cmp(ran) != 0 || still.Cmp(slept) != 0 {
		t.Errorf("of one that is gone: ran %s, then %s; slept %s, then %s", ran, again, slept, still)
	}
}

func TestBadUsage(t *testing.T) {
	r := newRig(t, Limits{})
	tomorrow := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	for query, says := range map[string]string{
		"from=yesterday": "from", "to=2026-01-02": "to", "from=": "from", "to=": "to", "from=2026-01-01T00:00:00Z&from=2026-01-01T00:00:00Z": "twice",
		"from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z": "before to", "from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z": "before to", "from=" + tomorrow: "before now",
		"from=2024-01-01T00:00:00Z&to=2025-01-01T00:00:01Z": "366 days", "from=0001-01-01T00:00:00Z": "366 days",
		"by=hour": "by", "by=": "by", "by=day&by=day": "twice", "limit=5": "by sandbox", "by=day&cursor=x": "by sandbox", "by=sandbox&limit=0": "limit", "by=sandbox&limit=201": "limit",
		"by=sandbox&cursor=x": "cursor", "by=sandbox&cursor=": "cursor", "sandbox=sb-00000001": "sandbox",
	} {
		e := decoded[errorAnswer](t, r.call("GET", "/v1/usage?"+query, ""), http.StatusBadRequest).Error
		if e.Code != models.Invalid || !strings.Contains(e.Message, says) {
			t.Errorf("%s: %+v", query, e)
		}
	}
}
