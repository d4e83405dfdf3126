package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
)

func TestHostCommands(t *testing.T) {
	dbs := setUp(t)
	command(t, "migrate", "up")
	store, err := db.Open(t.Context(), dbs.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, h := range []db.Host{
		{ID: "host-00000001", Name: "one", Address: "unix:///one", Driver: "qemu", VCPUs: 4, MemoryMiB: 4096, DiskMiB: 8192},
		{ID: "host-00000002", Name: "two", Address: "unix:///two", Driver: "qemu", VCPUs: 8, MemoryMiB: 1024, DiskMiB: 8192},
	} {
		if _, _, err := store.RegisterHost(t.Context(), h, true); err != nil {
			t.Fatal(err)
		}
	}
	state := func(i int) models.HostState {
		var all []struct{ State models.HostState }
		if err := json.Unmarshal([]byte(command(t, "host", "ls", "--json")), &all); err != nil {
			t.Fatal(err)
		}
		return all[i].State
	}
	if out := command(t, "host", "ls"); !strings.Contains(out, "host-00000001") || !strings.Contains(out, "0/4096") || !strings.Contains(out, "unix:///two") {
		t.Errorf("host ls printed %s", out)
	}
	command(t, "host", "drain", "host-00000001", "--evict")
	if s := state(0); s != models.HostDraining {
		t.Errorf("after drain it is %s", s)
	}
	command(t, "host", "undrain", "host-00000001")
	if s := state(0); s != models.HostReady {
		t.Errorf("after undrain it is %s", s)
	}
	if out, err := store.Quarantine(t.Context(), "host-00000002", "its disk is full"); err != nil || !out || state(1) != models.HostQuarantined {
		t.Errorf("quarantine: %v, %v, and it is %s", out, err, state(1))
	}
	if out := command(t, "host", "ls"); !strings.Contains(out, "host-00000002 is in quarantine since") || !strings.Contains(out, "its disk is full") {
		t.Errorf("host ls printed %s", out)
	}
	if out, err := store.Quarantine(t.Context(), "host-00000001", "it too"); err != nil || out {
		t.Errorf("quarantine of the last host: %v, %v", out, err)
	}
	if err := store.MarkUnreachable(t.Context(), "host-00000001"); err != nil || state(0) != models.HostDown {
		t.Errorf("an unreachable host is %s, %v", state(0), err)
	}
	command(t, "host", "rm", "host-00000001")
	if out := command(t, "host", "ls"); strings.Contains(out, "host-00000001") {
		t.Errorf("after its removal host ls printed %s", out)
	}
	if got := audited(t, store, "host-00000001"); got != "operator host.remove ok, operator host.undrain ok, operator host.drain ok" {
		t.Errorf("audit: %s", got)
	}
	for _, args := range [][]string{{"drain", "host-99999999"}, {"undrain", "host-00000001"}, {"rm", "host-00000001"}} {
		if _, err := try(t, append([]string{"host"}, args...)...); models.CodeOf(err) != models.NotFound {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := try(t, "host", "drain", "nonsense"); models.CodeOf(err) != models.Invalid {
		t.Errorf("drain of nonsense: %v", err)
	}
}

// audited is who has done what to a host or a token, newest first.
func audited(t *testing.T, store *db.Store, target string) string {
	t.Helper()
	events, err := store.HostAudit(t.Context(), db.AuditFilter{Target: target, Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range events {
		if !strings.HasPrefix(e.RequestID, "req-") {
			t.Errorf("an event of no request: %+v", e)
		}
		all = append(all, e.Actor+" "+e.Action+" "+e.Outcome)
	}
	return strings.Join(all, ", ")
}

// TestHostToken: a token is printed once, and not kept as it is; until a host has used it, it is listed and can be revoked.
func TestHostToken(t *testing.T) {
	dbs := setUp(t)
	command(t, "migrate", "up")
	store, err := db.Open(t.Context(), dbs.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	join := func(text string, host id.Host) error {
		token, err := mtls.ParseToken(strings.TrimSpace(text))
		if err != nil {
			t.Fatal(err)
		}
		return store.JoinHost(t.Context(), db.NewMember{Token: token.Hash(), ID: host, Name: "x", Address: string(host) + ":9000", Request: "req-1"})
	}
	if err := join(command(t, "host", "token"), "host-00000001"); err != nil {
		t.Error(err)
	}
	if err := join(command(t, "host", "token", "--host", "host-00000002"), "host-00000003"); models.CodeOf(err) != models.Forbidden {
		t.Errorf("a token of another host: %v", err)
	}
	if err := join(command(t, "host", "token", "--host", "host-00000001"), "host-00000001"); err != nil {
		t.Errorf("the host joins again: %v", err)
	}
	joins, err := store.HostAudit(t.Context(), db.AuditFilter{Action: "host.join", Limit: 10})
	if err != nil || len(joins) != 2 || joins[0].Target != "host-00000001" || audited(t, store, joins[0].Actor) != "operator host.token ok" {
		t.Errorf("audit: %+v, %v", joins, err)
	}
	revoked := command(t, "host", "token", "--host", "host-00000004")
	var listed []struct {
		ID   string
		Host string `json:"host_id"`
	}
	if err := json.Unmarshal([]byte(command(t, "host", "tokens", "--json")), &listed); err != nil || len(listed) != 2 || listed[0].Host != "host-00000004" || listed[1].Host != "host-00000002" {
		t.Fatalf("the tokens of which none has joined: %+v, %v", listed, err)
	}
	if out := command(t, "host", "tokens"); !strings.Contains(out, listed[0].ID+"  host-00000004  ") {
		t.Errorf("host tokens printed %s", out)
	}
	for range 2 { // the second time nothing changes
		command(t, "host", "revoke", listed[0].ID)
	}
	if out := command(t, "host", "tokens"); strings.Contains(out, listed[0].ID) || !strings.Contains(out, listed[1].ID) {
		t.Errorf("then host tokens printed %s", out)
	}
	if err := join(revoked, "host-00000004"); models.CodeOf(err) != models.Unauthenticated || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a token that was revoked: %v", err)
	}
	if got := audited(t, store, listed[0].ID); got != "operator host.token.revoke ok, operator host.token ok" {
		t.Errorf("audit of what was revoked: %s", got)
	}
	for arg, want := range map[string]models.Code{joins[0].Actor: models.Precondition, "token-0000000000000000": models.NotFound, strings.TrimSpace(revoked): models.Invalid} {
		if _, err := try(t, "host", "revoke", arg); models.CodeOf(err) != want || strings.Contains(err.Error(), "wht_") {
			t.Errorf("host revoke %s: %v", arg, err)
		}
	}
	for _, args := range [][]string{{"--ttl", "0s"}, {"--ttl", "1000h"}, {"--host", "nonsense"}} {
		if _, err := try(t, append([]string{"host", "token"}, args...)...); models.CodeOf(err) != models.Invalid {
			t.Errorf("%v: %v", args, err)
		}
	}
}
