package db

import (
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
)

// TestLeaseOfTheFrozen: a replica that checks its lease no more, and whose connection stays, does not keep it.
func TestLeaseOfTheFrozen(t *testing.T) {
	s, err := Open(t.Context(), stacktest.ForTest(t).PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	frozen, err := s.Lead(t.Context())
	if err != nil || frozen == nil {
		t.Fatalf("Lead = %v, %v", frozen, err)
	}
	defer frozen.Release(t.Context())
	var after string
	if err := frozen.conn.QueryRow(t.Context(), "SHOW idle_session_timeout").Scan(&after); err != nil || after != "30s" {
		t.Errorf("the server keeps it for %q, %v; want %v", after, err, leaseSilence)
	}
	if _, err := frozen.conn.Exec(t.Context(), "SET idle_session_timeout = '50ms'"); err != nil { // who would wait for it?
		t.Fatal(err)
	}
	next, err := s.Lead(t.Context())
	for end := time.Now().Add(time.Minute); next == nil && time.Now().Before(end); next, err = s.Lead(t.Context()) {
		time.Sleep(10 * time.Millisecond)
	}
	if next == nil {
		t.Fatalf("nobody else leads: %v", err)
	}
	next.Release(t.Context())
	if err := frozen.Check(t.Context()); err == nil {
		t.Error("the frozen one thinks that it leads")
	}
}
