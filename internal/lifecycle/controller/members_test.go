package controller

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/mtls"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// member starts a host with a certificate of the deployment's authority that is valid for a while, and lets it join.
func (r *rig) member(host id.Host, life time.Duration) *hostsim.Host {
	r.t.Helper()
	identity, err := mtls.NewIdentity(filepath.Join(r.t.TempDir(), "identity.pem"), host)
	if err != nil {
		r.t.Fatal(err)
	}
	seed, err := r.store.SigningKey(r.t.Context(), authorityKey)
	if err != nil {
		r.t.Fatal(err)
	}
	authority, err := mtls.NewAuthority(seed, life)
	if err != nil {
		r.t.Fatal(err)
	}
	request, err := identity.Request()
	if err != nil {
		r.t.Fatal(err)
	}
	certificate, err := authority.SignHost(request, host)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := identity.Join(mtls.NewToken(authority), certificate, authority.Certificate()); err != nil {
		r.t.Fatal(err)
	}
	sim := hostsim.Start(r.t)
	sim.Share(r.sim)
	sim.Describe(func(i *pb.GetHostInfoResponse) { i.HostId = string(host) })
	sim.Join(identity)
	if err := r.join(host, sim.Address(), ""); err != nil {
		r.t.Fatal(err)
	}
	return sim
}

// join spends a new token for a host.
func (r *rig) join(host id.Host, address string, bound id.Host) error {
	r.t.Helper()
	token := sha256.Sum256([]byte(id.NewRequest()))
	if _, err := r.store.CreateHostToken(r.t.Context(), db.NewHostToken{Hash: token, Host: bound, TTL: time.Hour, By: operator}); err != nil {
		r.t.Fatal(err)
	}
	return r.store.JoinHost(r.t.Context(), db.NewMember{Token: token, ID: host, Name: "sim", Address: address})
}

// TestMembers: a host that has joined is connected by all replicas, over TLS for calls and tunnels, keeps its certificate young without losing a connection, and is let go when
// it is removed.
func TestMembers(t *testing.T) {
	r := newRig(t)
	r.sim.Describe(func(i *pb.GetHostInfoResponse) { i.Templates = nil }) // so that all goes to the other one
	const host = id.Host("host-00000001")
	sim := r.member(host, time.Minute) // whose certificate is due at once: it was made five minutes ago, for the clocks of two machines
	first := r.boot(r.store, Limits{}, quick, 20*time.Millisecond, r.sim.Address())
	second := r.start(r.store, Limits{}, quick)
	for _, c := range []*replica{first, second} {
		r.eventually("it is reachable", func() bool { return c.Fleet.reachable()[host] })
	}
	sb := r.create(first)
	if sb.Host != host {
		t.Fatalf("it is on %s", sb.Host)
	}
	g, err := second.Guest(t.Context(), r.by.Account, sb.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Metrics(t.Context()); err != nil {
		t.Errorf("through a tunnel: %v", err)
	}
	connects := r.host(host).Connects
	client, err := first.Fleet.Client(host)
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("its certificate is renewed", func() bool { return time.Until(client.Certificate().NotAfter) > mtls.HostLife/2 })
	if told, known := first.Fleet.StatusOf(host); !known || !told.CertificateUntil.Equal(client.Certificate().NotAfter) {
		t.Errorf("its certificate, as it is told: %+v", told)
	}
	if _, err := g.Metrics(t.Context()); err != nil || r.host(host).Connects != connects {
		t.Errorf("after that: %v, and connections %d, before %d", err, r.host(host).Connects, connects)
	}
	sim.Kill()
	sim.Restart()
	r.eventually("it is back, with the new certificate", func() bool { return first.Fleet.reachable()[host] && r.host(host).Connects > connects })
	if err := r.store.RemoveHost(t.Context(), host, operator, true); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*replica{first, second} {
		r.eventually("it is let go", func() bool { return c.Fleet.find(host) == nil })
	}
	r.becomes(sb.ID, models.Failed)
	if err := r.join(host, sim.Address(), ""); err != nil { // an operator has given it another token
		t.Fatal(err)
	}
	r.eventually("it has come back", func() bool { return first.Fleet.reachable()[host] })
	r.eventually("what it held is gone", func() bool { _, _, n := sim.Counts(); return n == 0 })
}

// TestPretender: an agent whose certificate is another host's is not believed, nor one that says that it is another host than its certificate does.
func TestPretender(t *testing.T) {
	r := newRig(t)
	const host, other = id.Host("host-00000001"), id.Host("host-00000002")
	sim := r.member(host, time.Hour)
	c := r.start(r.store, Limits{}, quick)
	r.eventually("it is reachable", func() bool { return c.Fleet.reachable()[host] })
	refused := func(h id.Host, why string) func() bool {
		return func() bool {
			for _, s := range c.Fleet.Status() {
				if s.ID == h {
					return !s.Up && s.Err != nil && strings.Contains(s.Err.Error(), why)
				}
			}
			return false
		}
	}
	sim.Kill()
	sim.Describe(func(i *pb.GetHostInfoResponse) { i.HostId = string(other) })
	sim.Restart()
	r.eventually("what it says is not believed", refused(host, "says that it is host-00000002"))
	sim.Kill()
	r.sql("UPDATE hosts SET id = 'host-00000002' WHERE id = 'host-00000001'") // another host takes its address, and has its certificate alone
	sim.Restart()
	r.eventually("its certificate is not believed", refused(other, "TLS"))
}

func TestJoin(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	token := sha256.Sum256([]byte("a"))
	join := func(token [32]byte, host id.Host, address string) error {
		return r.store.JoinHost(ctx, db.NewMember{Token: token, ID: host, Name: "x", Address: address})
	}
	if err := join(token, "host-00000001", "10.0.0.1:9000"); models.CodeOf(err) != models.Unauthenticated {
		t.Errorf("a token that was never made: %v", err)
	}
	if _, err := r.store.CreateHostToken(ctx, db.NewHostToken{Hash: token, TTL: time.Hour, By: operator}); err != nil {
		t.Fatal(err)
	}
	if err := join(token, "host-00000001", "10.0.0.1:9000"); err != nil {
		t.Error(err)
	}
	if err := join(token, "host-00000002", "10.0.0.2:9000"); models.CodeOf(err) != models.Unauthenticated {
		t.Errorf("a token that was used: %v", err)
	}
	old := sha256.Sum256([]byte("b"))
	if _, err := r.store.CreateHostToken(ctx, db.NewHostToken{Hash: old, TTL: -time.Second, By: operator}); err != nil {
		t.Fatal(err)
	}
	if err := join(old, "host-00000002", "10.0.0.2:9000"); models.CodeOf(err) != models.Unauthenticated {
		t.Errorf("a token that has expired: %v", err)
	}
	revoked := sha256.Sum256([]byte("c"))
	made, err := r.store.CreateHostToken(ctx, db.NewHostToken{Hash: revoked, TTL: time.Hour, By: operator})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.RevokeHostToken(ctx, made.ID, operator); err != nil {
		t.Error(err)
	}
	if err := join(revoked, "host-00000002", "10.0.0.2:9000"); models.CodeOf(err) != models.Unauthenticated || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("a token that was revoked: %v", err)
	}
	if err := r.join("host-00000001", "10.0.0.3:9000", ""); models.CodeOf(err) != models.Conflict {
		t.Errorf("a host that exists, with a token for a new one: %v", err)
	}
	if err := r.join("host-00000002", "10.0.0.1:9000", ""); models.CodeOf(err) != models.Conflict {
		t.Errorf("the address of another host: %v", err)
	}
	if err := r.join("host-00000002", "10.0.0.2:9000", "host-00000001"); models.CodeOf(err) != models.Forbidden {
		t.Errorf("a token of another host: %v", err)
	}
	if err := r.join("host-00000001", "10.0.0.3:9000", "host-00000001"); err != nil {
		t.Errorf("a host that joins again: %v", err)
	}
	if got, err := r.store.JoinedHosts(ctx); err != nil || len(got) != 1 || got[0] != (db.Member{ID: "host-00000001", Address: "10.0.0.3:9000"}) {
		t.Errorf("who has joined: %+v, %v", got, err)
	}
}

// TestJoinOrRevoked: of a host that joins and an operator who revokes its token at the same time the first one succeeds, and the other one is told.
func TestJoinOrRevoked(t *testing.T) {
	r := newRig(t)
	for i := range 2 {
		token := sha256.Sum256([]byte(id.NewRequest()))
		made, err := r.store.CreateHostToken(t.Context(), db.NewHostToken{Hash: token, TTL: time.Hour, By: operator})
		if err != nil {
			t.Fatal(err)
		}
		host := id.Host(fmt.Sprintf("host-0000000%d", i))
		var joined, revoked error
		both := []func(){
			func() {
				joined = r.store.JoinHost(t.Context(), db.NewMember{Token: token, ID: host, Name: "x", Address: string(host) + ":9000"})
			},
			func() { revoked = r.store.RevokeHostToken(t.Context(), made.ID, operator) },
		}
		r.whileLocked("host_tokens", both[i], both[1-i])
		if i == 0 && (joined != nil || models.CodeOf(revoked) != models.Precondition) || i == 1 && (revoked != nil || models.CodeOf(joined) != models.Unauthenticated) {
			t.Errorf("%d: the host: %v, the operator: %v", i, joined, revoked)
		}
	}
}

// whileLocked starts what wants rows of a table while all of them are locked, one after the other, lets the rows go when all wait, and waits until all have ended.
func (r *rig) whileLocked(table string, all ...func()) {
	r.t.Helper()
	var wg sync.WaitGroup
	r.connected(func(conn *pgx.Conn) error {
		return pgx.BeginFunc(r.t.Context(), conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(r.t.Context(), "SELECT FROM "+table+" FOR UPDATE")
			for i, do := range all {
				wg.Go(do)
				r.eventually("it waits for its row", func() bool {
					var n int
					r.query(&n, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
					return n > i
				})
			}
			return err
		})
	})
	wg.Wait()
}
