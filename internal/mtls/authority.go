// Package mtls is how the control plane and the hosts know each other over a network: an authority of the deployment's own, which certifies both, and the identity of a host.
//
// A host's certificate is for servers and names that host alone; a control plane's is for clients. So a host that was taken over can neither pass for another one nor give orders to any.
// Keys never leave the machine that made them, except the authority's, which all replicas of the control plane share through the database.
package mtls

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	// controlPlane is the name in a control plane's certificate.
	controlPlane = "control-plane"
	// HostLife is how long a host's certificate is valid, and so how long a host may be away before it has to join again.
	HostLife = 7 * 24 * time.Hour
	// clientLife is that of a control plane, which makes itself another one.
	clientLife = 24 * time.Hour
	// skew is how far the clocks of two machines may differ.
	skew = 5 * time.Minute
)

// Authority certifies hosts and control planes. All methods may be called at the same time.
type Authority struct {
	key  ed25519.PrivateKey
	cert *x509.Certificate
	life time.Duration // of hosts' certificates

	mu     sync.Mutex // guards client
	client *tls.Certificate
}

// NewAuthority returns the authority of a seed of 32 bytes. The same seed gives the same authority, also its certificate.
func NewAuthority(seed []byte, life time.Duration) (*Authority, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("the seed of an authority has %d bytes, not %d", len(seed), ed25519.SeedSize)
	}
	a := &Authority{key: ed25519.NewKeyFromSeed(seed), life: life}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Wrenn hosts"},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC), // its end is that of its key
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make the authority's certificate: %w", err)
	}
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

// Certificate returns the authority's own, DER.
func (a *Authority) Certificate() []byte { return a.cert.Raw }

// Fingerprint identifies the authority: its key.
func (a *Authority) Fingerprint() string { return fingerprint(a.cert) }

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// SignHost certifies that whoever has the key of a request (PKCS #10, DER) is a host. What else the request asks for is left out. Invalid for what is no request.
func (a *Authority) SignHost(request []byte, host id.Host) ([]byte, error) {
	r, err := x509.ParseCertificateRequest(request)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, models.Errorf(models.Invalid, "this is no certificate request: %v", err)
	}
	return a.sign(string(host), r.PublicKey, x509.ExtKeyUsageServerAuth, a.life)
}

func (a *Authority) sign(name string, public any, use x509.ExtKeyUsage, life time.Duration) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // RFC 5280, 4.1.2.2: at most 20 octets
	if err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-skew), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use}, BasicConstraintsValid: true,
	}, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", name, err)
	}
	return der, nil
}

// Client is the configuration of a control plane's connections to a host, and no other one.
func (a *Authority) Client(host id.Host) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: string(host),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return a.ownCertificate() },
	}
}

// ownCertificate returns the control plane's, a new one when half of its time is over.
func (a *Authority) ownCertificate() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client != nil && time.Until(a.client.Leaf.NotAfter) > clientLife/2 {
		return a.client, nil
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := a.sign(controlPlane, public, x509.ExtKeyUsageClientAuth, clientLife)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read what was made: %w", err)
	}
	a.client = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf}
	return a.client, nil
}

// Due tells whether a certificate is to be renewed: when a third of its time is over, so that two thirds are left for what stands in the way.
func Due(c *x509.Certificate, now time.Time) bool {
	return now.Sub(c.NotBefore) > c.NotAfter.Sub(c.NotBefore)/3
}
