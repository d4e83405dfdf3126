package db_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func policy(t *testing.T, allow ...string) models.NetworkPolicy {
	t.Helper()
	rules, err := models.ParseDestinations("allow", allow)
	if err != nil {
		t.Fatal(err)
	}
	return models.NetworkPolicy{IPv6: true, Allow: rules, Limits: models.NetworkLimits{UploadMbit: 1, DownloadMbit: 2, PacketsPerSecond: 3, Connections: 4, ConnectionsPerSecond: 5}}
}

func set(p models.NetworkPolicy) db.NetworkFunc {
	return func(models.Sandbox) (models.NetworkPolicy, error) { return p, nil }
}

// TestChangeNetwork: a policy is changed with its audit row, once, by its owner.
func TestChangeNetwork(t *testing.T) {
	s, account, url := open(t)
	sb := create(t, s, account)
	if sb.Network.Generation != 1 {
		t.Errorf("a new sandbox has %+v", sb.Network)
	}
	want := policy(t, "192.0.2.0/24", "*.example.com")
	for range 2 { // repeated, it changes nothing
		got, err := s.ChangeNetwork(t.Context(), account, sb.ID, by, set(want))
		if err != nil {
			t.Fatal(err)
		}
		want.Generation = 2
		if diff := cmp.Diff(want, got.Network, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Error(diff)
		}
		if got.State != sb.State || got.Generation != sb.Generation || !got.UpdatedAt.Equal(sb.UpdatedAt) {
			t.Errorf("the change of the policy changed the sandbox to %+v", got)
		}
	}
	if n := audits(t, url, sb.ID); n != 1 {
		t.Errorf("%d audit rows", n)
	}
	refused := errors.New("no")
	if _, err := s.ChangeNetwork(t.Context(), account, sb.ID, by, func(models.Sandbox) (models.NetworkPolicy, error) { return policy(t), refused }); !errors.Is(err, refused) {
		t.Errorf("a refused change gave %v", err)
	}
	other, err := s.Account(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ChangeNetwork(t.Context(), other, sb.ID, by, set(policy(t))); models.CodeOf(err) != models.NotFound {
		t.Errorf("another account's change gave %v", err)
	}
	if now, err := s.SandboxOfAny(t.Context(), sb.ID); err != nil || !now.Network.Equal(want) || audits(t, url, sb.ID) != 1 {
		t.Errorf("after changes that were refused: %+v, %v", now.Network, err)
	}
}

func audits(t *testing.T, url string, sb id.Sandbox) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	row := conn.QueryRow(t.Context(), "SELECT count(*) FROM audit_events WHERE target = $1 AND action = 'sandbox.network' AND request_id = $2 AND actor = $3", string(sb), by.Operation, by.Actor)
	if err := row.Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
