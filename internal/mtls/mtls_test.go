package mtls

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

const host = id.Host("host-00000001")

func authority(t *testing.T, first byte) *Authority {
	t.Helper()
	a, err := NewAuthority(append([]byte{first}, make([]byte, 31)...), HostLife)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// joined is the identity of a host that has joined.
func joined(t *testing.T, a *Authority, h id.Host) *Identity {
	t.Helper()
	i, err := NewIdentity(filepath.Join(t.TempDir(), "identity.pem"), h)
	if err != nil {
		t.Fatal(err)
	}
	if i.Joined() {
		t.Error("it has joined before it did")
	}
	if err := i.Join(NewToken(a), certified(t, a, i, h), a.Certificate()); err != nil || !i.Joined() {
		t.Fatal(err)
	}
	return i
}

func certified(t *testing.T, a *Authority, i *Identity, h id.Host) []byte {
	t.Helper()
	request, err := i.Request()
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.SignHost(request, h)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// meet has a client of one configuration talk to a server of another; the errors are theirs.
func meet(t *testing.T, server, client *tls.Config) (fromClient, fromServer error) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
		served <- err
	}()
	fromClient = listen(ln.Addr().String(), client)
	return fromClient, <-served
}

func listen(address string, client *tls.Config) error {
	conn, err := tls.Dial("tcp", address, client)
	if err != nil {
		return err
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err == nil && string(got) != "hello" {
		return errors.New("something else came")
	}
	return err
}

func TestOnlyTheirOwn(t *testing.T) {
	ours, others := authority(t, 1), authority(t, 2)
	i, other := joined(t, ours, host), joined(t, ours, "host-00000002")
	plain := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // it is the attack
	old := ours.Client(host)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	asHost := ours.Client(host)
	asHost.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return other.current, nil }
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ours.sign("somebody", public, x509.ExtKeyUsageClientAuth, HostLife)
	if err != nil {
		t.Fatal(err)
	}
	somebody := ours.Client(host)
	somebody.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
	}
	pretender := others.Client(host)
	pretender.RootCAs = ours.Client(host).RootCAs
	if c, s := meet(t, i.Server(), ours.Client(host)); c != nil || s != nil {
		t.Errorf("its own control plane: %v, %v", c, s)
	}
	for name, client := range map[string]*tls.Config{
		"nobody": plain, "a client of another name": somebody, "TLS 1.2": old, "another host": asHost, "the control plane of another authority": pretender,
		"whoever wants another host": ours.Client("host-00000003"), "whoever trusts another authority": others.Client(host),
	} {
		if c, s := meet(t, i.Server(), client); c == nil || s == nil {
			t.Errorf("%s was let in: %v, %v", name, c, s)
		}
	}
}

func TestIdentityIsKept(t *testing.T) {
	a := authority(t, 1)
	i := joined(t, a, host)
	info, err := os.Stat(i.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its file: %v, %v", info, err)
	}
	again, err := NewIdentity(i.path, host)
	if err != nil || !again.Joined() {
		t.Fatal(err)
	}
	if c, s := meet(t, again.Server(), a.Client(host)); c != nil || s != nil {
		t.Errorf("after a restart: %v, %v", c, s)
	}
	if _, err := NewIdentity(i.path, "host-00000002"); models.CodeOf(err) != models.Invalid {
		t.Errorf("as another host: %v", err)
	}
	if err := os.WriteFile(i.path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewIdentity(i.path, host); err == nil {
		t.Error("nonsense was read")
	}
}

func TestRenewal(t *testing.T) {
	a := authority(t, 1)
	i := joined(t, a, host)
	server := i.Server()
	before := i.current.Certificate[0]
	install := func(der []byte) error {
		_, err := i.InstallCertificate(t.Context(), &pb.InstallCertificateRequest{Certificate: der})
		return err
	}
	renewed := certified(t, a, i, host)
	if err := install(certified(t, a, i, "host-00000002")); models.CodeOf(err) != models.Invalid {
		t.Errorf("a certificate of another host: %v", err)
	}
	if err := install(certified(t, authority(t, 2), i, host)); models.CodeOf(err) != models.Invalid {
		t.Errorf("a certificate of another authority: %v", err)
	}
	if err := install([]byte("x")); models.CodeOf(err) != models.Invalid {
		t.Errorf("nonsense: %v", err)
	}
	if !bytes.Equal(i.current.Certificate[0], before) {
		t.Error("a certificate that was refused is in force")
	}
	for range 2 { // it may be repeated
		if err := install(renewed); err != nil {
			t.Error(err)
		}
	}
	if err := install(before); models.CodeOf(err) != models.Precondition {
		t.Errorf("the one before: %v", err)
	}
	shown := shownBy(t, server, a.Client(host))
	if !bytes.Equal(shown.Raw, renewed) {
		t.Error("the listener that there was shows the old certificate")
	}
	if again, err := NewIdentity(i.path, host); err != nil || !bytes.Equal(again.current.Certificate[0], renewed) {
		t.Errorf("the new one is not kept: %v", err)
	}
	for range 2 * maxPending { // nobody fills the memory
		if _, err := i.RequestCertificate(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(i.pending) != maxPending {
		t.Errorf("%d keys wait", len(i.pending))
	}
}

func shownBy(t *testing.T, server, client *tls.Config) *x509.Certificate {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go func() { _ = tls.Server(theirs, server).HandshakeContext(context.Background()) }() // ends with ours
	conn := tls.Client(ours, client)
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState().PeerCertificates[0]
}

func TestJoinRefuses(t *testing.T) {
	a, other := authority(t, 1), authority(t, 2)
	i, err := NewIdentity(filepath.Join(t.TempDir(), "identity.pem"), host)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Join(NewToken(a), certified(t, other, i, host), other.Certificate()); models.CodeOf(err) != models.Forbidden {
		t.Errorf("another authority than the token's: %v", err)
	}
	if err := i.Join(NewToken(a), certified(t, a, i, "host-00000002"), a.Certificate()); models.CodeOf(err) != models.Invalid {
		t.Errorf("a certificate of another host: %v", err)
	}
	if err := i.Join(NewToken(a), nil, nil); models.CodeOf(err) != models.Invalid {
		t.Errorf("nothing: %v", err)
	}
	if i.Joined() {
		t.Error("it has joined nevertheless")
	}
	if _, err := a.SignHost([]byte("x"), host); models.CodeOf(err) != models.Invalid {
		t.Errorf("a request that is none: %v", err)
	}
}

func TestReplicasShareTheAuthority(t *testing.T) {
	first, second := authority(t, 1), authority(t, 1)
	if !bytes.Equal(first.Certificate(), second.Certificate()) || first.Fingerprint() != second.Fingerprint() {
		t.Error("one seed gives two authorities")
	}
	i := joined(t, first, host)
	if c, s := meet(t, i.Server(), second.Client(host)); c != nil || s != nil {
		t.Errorf("another replica: %v, %v", c, s)
	}
	if _, err := NewAuthority(nil, HostLife); err == nil {
		t.Error("an authority without a seed was made")
	}
}

func TestDue(t *testing.T) {
	now := time.Now()
	c := &x509.Certificate{NotBefore: now, NotAfter: now.Add(3 * time.Hour)}
	if Due(c, now.Add(59*time.Minute)) || !Due(c, now.Add(61*time.Minute)) {
		t.Error("it is not due after a third of its time")
	}
}

func TestToken(t *testing.T) {
	a := authority(t, 1)
	made := NewToken(a)
	got, err := ParseToken(string(made))
	if err != nil || got != made || got.Authority() != a.Fingerprint() {
		t.Errorf("%q, %v", string(got), err)
	}
	hash, err := HashSecret(made.Secret())
	if err != nil || hash != made.Hash() || made == NewToken(a) {
		t.Errorf("its hash: %v", err)
	}
	if strings.Contains(made.String(), made.Secret()[4:]) {
		t.Error("its text tells the secret")
	}
	for _, bad := range []string{"", "wht_", string(made) + "0", strings.ToUpper(string(made)), made.Secret()} {
		if _, err := ParseToken(bad); models.CodeOf(err) != models.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := HashSecret(string(made)); models.CodeOf(err) != models.Unauthenticated {
		t.Errorf("a whole token for a secret: %v", err)
	}
}
