package db_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestKeys(t *testing.T) {
	s, account, _ := open(t)
	ctx := t.Context()
	k := db.NewKey{ID: id.NewKey(), Account: account, Hash: [32]byte{1}, Prefix: "wrn_0000", Name: "ci", Scopes: []string{"admin"}, By: db.By{Actor: "operator", Operation: "req-k"}}
	if err := s.CreateKey(ctx, k); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateKey(ctx, k); err != nil { // the answer to the first was lost
		t.Errorf("the same again: %v", err)
	}
	same := k
	same.ID = id.NewKey()
	if err := s.CreateKey(ctx, same); models.CodeOf(err) != models.Conflict {
		t.Errorf("another key of the same hash: %v", err)
	}
	if key, err := s.KeyByHash(ctx, k.Hash); err != nil || key.ID != k.ID || key.Account != account || !slices.Equal(key.Scopes, k.Scopes) || !key.Until.IsZero() {
		t.Errorf("KeyByHash = %+v, %v", key, err)
	}
	at := time.Now().Truncate(time.Microsecond)
	if err := s.TouchKeys(ctx, map[id.Key]time.Time{k.ID: at}); err != nil {
		t.Fatal(err)
	}
	if err := s.TouchKeys(ctx, map[id.Key]time.Time{k.ID: at.Add(-time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RevokeKey(ctx, "acc-ffffffff", k.ID, k.By); models.CodeOf(err) != models.NotFound {
		t.Errorf("revoke for another account: %v", err)
	}
	if hashes, err := s.RevokeKey(ctx, account, k.ID, k.By); err != nil || !slices.Equal(hashes, [][32]byte{k.Hash}) {
		t.Errorf("RevokeKey = %v, %v", hashes, err)
	}
	if hashes, err := s.RevokeKey(ctx, account, k.ID, k.By); err != nil || !slices.Equal(hashes, [][32]byte{k.Hash}) { // the answer to the first was lost
		t.Errorf("the same again = %v, %v", hashes, err)
	}
	if _, err := s.RevokeKey(ctx, "", k.ID, db.By{Actor: k.By.Actor, Operation: "another"}); models.CodeOf(err) != models.NotFound {
		t.Errorf("a second revoke: %v", err)
	}
	if _, err := s.KeyByHash(ctx, k.Hash); models.CodeOf(err) != models.NotFound {
		t.Errorf("a revoked key: %v", err)
	}
	keys, err := s.Keys(ctx)
	if err != nil || len(keys) != 1 || keys[0].RevokedAt.IsZero() || !keys[0].LastUsedAt.Equal(at) || keys[0].Account != "acme" {
		t.Errorf("Keys = %+v, %v; want one, revoked, last used at %s", keys, err, at)
	}
	audit, err := s.AuditLog(ctx, account, 10)
	if err != nil || len(audit) != 2 || audit[0].Action != "key.revoke" || audit[1].Action != "key.create" {
		t.Errorf("audit %+v, %v", audit, err)
	}
}

// Replicas that need a signing key at the same time get the same, and names do not share one.
func TestSigningKey(t *testing.T) {
	s, _, _ := open(t)
	keys := make(chan string, 8)
	var wg sync.WaitGroup
	for range cap(keys) {
		wg.Go(func() {
			key, err := s.SigningKey(t.Context(), "grants")
			if err != nil {
				t.Error(err)
			}
			keys <- string(key)
		})
	}
	wg.Wait()
	first := <-keys
	for range cap(keys) - 1 {
		if key := <-keys; key != first || len(key) != 32 {
			t.Errorf("keys %x and %x", first, key)
		}
	}
	if other, err := s.SigningKey(t.Context(), "others"); err != nil || string(other) == first {
		t.Errorf("%x, %v", other, err)
	}
}

func TestHosts(t *testing.T) {
	s, account, _ := open(t)
	ctx := t.Context()
	again, replaced, err := s.RegisterHost(ctx, aHost("host-00000001"), true)
	if err != nil || again.Connects != 2 || len(replaced) != 0 {
		t.Errorf("second connection: %+v, %v, %v", again, replaced, err)
	}
	if beat, _, err := s.RegisterHost(ctx, aHost("host-00000001"), false); err != nil || beat.Connects != 2 {
		t.Errorf("heartbeat counts as a connection: %+v, %v", beat, err)
	}
	testHeardOf(t, s, again.ID)
	sb := create(t, s, account)
	rows, err := s.RowsForHost(ctx, "host-00000001", nil)
	if err != nil || len(rows) != 1 || rows[0].ID != sb.ID || rows[0].Overdue || rows[0].Generation != sb.Generation {
		t.Errorf("rows %+v, %v", rows, err)
	}
	if homeless, err := s.Homeless(ctx); err != nil || len(homeless) != 0 {
		t.Errorf("homeless %+v, %v", homeless, err)
	}
	if _, replaced, err = s.RegisterHost(ctx, aHost("host-00000002"), true); err != nil || !slices.Equal(replaced, []id.Host{"host-00000001"}) {
		t.Errorf("another host at the address replaced %v, %v", replaced, err)
	}
	if homeless, err := s.Homeless(ctx); err != nil || len(homeless) != 1 || homeless[0].ID != sb.ID {
		t.Errorf("homeless %+v, %v", homeless, err)
	}
	hosts, err := s.Hosts(ctx)
	if err != nil || len(hosts) != 1 || hosts[0].ID != "host-00000002" || hosts[0].OverheadMiB != 128 || hosts[0].Templates[0].Name != "minimal" {
		t.Errorf("hosts %+v, %v", hosts, err)
	}
	seen, err := s.RowsForHost(ctx, "host-00000002", []id.Sandbox{sb.ID, "sb-99999999"})
	if err != nil || len(seen) != 1 || seen[0].Host != "host-00000001" {
		t.Errorf("rows of what another host was seen to hold: %+v, %v", seen, err)
	}
}

// testHeardOf holds that the time of a host is noted where it was not noted just before and nobody is at its row, and that all that are ready are told, and no others.
func testHeardOf(t *testing.T, s *db.Store, h id.Host) {
	t.Helper()
	ctx := t.Context()
	before, err := s.Hosts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, fresh := range []time.Duration{time.Hour, 0} {
		ready, err := s.HeardOf(ctx, []id.Host{h, "host-99999999"}, fresh)
		if err != nil || !slices.Equal(ready, []id.Host{h}) {
			t.Errorf("ready are %v, %v", ready, err)
		}
		if hosts, err := s.Hosts(ctx); err != nil || hosts[0].LastSeenAt.After(before[0].LastSeenAt) != (fresh == 0) {
			t.Errorf("heard of at %v, and within %v before at %v, %v", hosts[0].LastSeenAt, fresh, before[0].LastSeenAt, err)
		}
	}
	if err := s.MarkUnreachable(ctx, h); err != nil {
		t.Fatal(err)
	}
	if ready, err := s.HeardOf(ctx, []id.Host{h}, 0); err != nil || len(ready) != 0 {
		t.Errorf("ready are %v, %v, of one that was marked as unreachable", ready, err)
	}
	if _, _, err := s.RegisterHost(ctx, aHost(h), false); err != nil {
		t.Fatal(err)
	}
}

func TestLease(t *testing.T) {
	s, _, url := open(t)
	ctx := t.Context()
	first, err := s.Lead(ctx)
	if err != nil || first == nil {
		t.Fatalf("Lead = %v, %v", first, err)
	}
	if second, err := s.Lead(ctx); err != nil || second != nil {
		t.Errorf("a second leader: %v, %v", second, err)
	}
	terminate(t, url)
	if err := first.Check(ctx); err == nil {
		t.Error("a lease is held whose connection was cut")
	}
	first.Release(ctx)
	third, err := s.Lead(ctx)
	for end := time.Now().Add(time.Minute); third == nil && time.Now().Before(end); third, err = s.Lead(ctx) {
		time.Sleep(10 * time.Millisecond) // the server is still ending the session
	}
	if third == nil {
		t.Fatalf("nobody leads after the leader was cut off: %v", err)
	}
	third.Release(ctx)
}

// TestPostgresGoesAway cuts all connections again and again while sandboxes are made and
// changed: nothing fails, and each change is made once. Each round of work is cut as often, so that a slow
// machine does not see more of them.
func TestPostgresGoesAway(t *testing.T) {
	s, account, url := open(t)
	for round := range 15 {
		var work sync.WaitGroup
		for w := range 4 {
			work.Go(func() { life(t, s, account, db.By{Actor: "a", Operation: fmt.Sprintf("op-%d-%d", w, round)}) })
		}
		for range 2 {
			terminate(t, url)
		}
		work.Wait()
	}
}

// life makes a sandbox and changes it.
func life(t *testing.T, s *db.Store, account id.Account, op db.By) {
	n := db.NewSandbox{ID: id.NewSandbox(), Account: account, Template: "minimal", By: op, Within: time.Minute}
	sb, err := s.CreateSandbox(t.Context(), n, onFirst)
	if err != nil {
		t.Errorf("create: %v", err)
		return
	}
	c := to(sb, models.Running)
	c.By = op
	if now, err := s.Transition(t.Context(), c); err != nil || now.Generation != 3 {
		t.Errorf("transition: %+v, %v", now, err)
	}
	if events, err := s.Events(t.Context(), sb.ID, 0, 1000); err != nil || len(events) != 3 {
		t.Errorf("%d events, %v", len(events), err)
	}
}

// terminate ends all other connections to t's database, as a restart of the server does.
func terminate(t *testing.T, url string) {
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(context.Background(),
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	if err != nil {
		t.Error(err)
	}
}

func TestUnreachableIsCoded(t *testing.T) {
	s, err := db.Open(t.Context(), "postgres:///x?host=/nonexistent")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(t.Context()); models.CodeOf(err) != models.Unavailable {
		t.Errorf("Ping: %v", err)
	}
	if _, err := s.Hosts(t.Context()); models.CodeOf(err) != models.Unavailable {
		t.Errorf("Hosts: %v", err)
	}
}
