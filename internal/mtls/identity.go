package mtls

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// maxPending bounds the keys that wait for their certificates: one a replica of the control plane.
const maxPending = 8

// Kinds of the blocks in an identity's file.
const (
	blockKey       = "PRIVATE KEY"
	blockCert      = "CERTIFICATE"
	blockAuthority = "WRENN AUTHORITY"
)

// Identity is who a host is to control planes: its key, its certificate and the authority of both, kept in one file. It serves IdentityService.
type Identity struct {
	pb.UnimplementedIdentityServiceServer
	host id.Host
	path string

	mu        sync.Mutex // guards what follows
	authority *x509.Certificate
	current   *tls.Certificate
	pending   []ed25519.PrivateKey // oldest first
}

// NewIdentity returns the identity of a host that is kept in a file. Before it has joined there is none: Joined says so.
func NewIdentity(path string, host id.Host) (*Identity, error) {
	i := &Identity{host: host, path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the host's identity: %w", err)
	}
	if err := i.read(text); err != nil {
		return nil, fmt.Errorf("read the host's identity in %s: %w", path, err)
	}
	return i, nil
}

func (i *Identity) read(text []byte) error {
	found := map[string][]byte{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		found[block.Type] = block.Bytes
	}
	key, err := x509.ParsePKCS8PrivateKey(found[blockKey])
	if err != nil {
		return fmt.Errorf("the key: %w", err)
	}
	private, is := key.(ed25519.PrivateKey)
	if !is {
		return fmt.Errorf("the key is a %T", key)
	}
	if i.authority, err = x509.ParseCertificate(found[blockAuthority]); err != nil {
		return fmt.Errorf("the authority: %w", err)
	}
	i.current, err = i.check(found[blockCert], private)
	return err
}

// Joined tells whether the host has a certificate that is valid still.
func (i *Identity) Joined() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.current != nil && time.Now().Before(i.current.Leaf.NotAfter)
}

// Request makes a key and returns a request to certify it, DER.
func (i *Identity) Request() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(i.host)}}, private)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pending = append(i.pending, private)
	i.pending = i.pending[max(0, len(i.pending)-maxPending):]
	return request, nil
}

// Join takes the first certificate, and its authority, which must be the one that the token names and is trusted from then on.
func (i *Identity) Join(t Token, certificate, authority []byte) error {
	root, err := x509.ParseCertificate(authority)
	if err != nil {
		return models.Errorf(models.Invalid, "the authority's certificate cannot be read: %v", err)
	}
	if fingerprint(root) != t.Authority() {
		return models.Errorf(models.Forbidden, "what answers is not the control plane that has made the token").WithHint("look whether the address of --join is right")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	before := i.authority
	i.authority = root
	if err := i.take(certificate); err != nil {
		i.authority = before
		return err
	}
	return nil
}

// take puts a certificate of one of the pending keys in force, once it is kept. The caller holds the lock.
func (i *Identity) take(certificate []byte) error {
	for _, private := range i.pending {
		checked, err := i.check(certificate, private)
		if errors.Is(err, errOtherKey) {
			continue
		}
		if err == nil {
			err = i.keep(checked, private)
		}
		if err != nil {
			return err
		}
		i.current, i.pending = checked, nil
		return nil
	}
	return models.Errorf(models.Precondition, "the certificate is of no request that this host has made").WithHint("ask for another request")
}

var errOtherKey = errors.New("the certificate is of another key")

// check tells whether a certificate makes whoever has a key this host.
func (i *Identity) check(certificate []byte, private ed25519.PrivateKey) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, models.Errorf(models.Invalid, "the certificate cannot be read: %v", err)
	}
	if public, is := leaf.PublicKey.(crypto.PublicKey).(ed25519.PublicKey); !is || !public.Equal(private.Public()) {
		return nil, errOtherKey
	}
	roots := x509.NewCertPool()
	roots.AddCert(i.authority)
	_, err = leaf.Verify(x509.VerifyOptions{
		DNSName: string(i.host), Roots: roots, CurrentTime: leaf.NotBefore.Add(time.Second), // whether it is over is another question
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return nil, models.Errorf(models.Invalid, "the certificate is not for this host: %v", err)
	}
	return &tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: private, Leaf: leaf}, nil
}

func (i *Identity) keep(c *tls.Certificate, private ed25519.PrivateKey) error {
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("encode the key: %w", err)
	}
	var text bytes.Buffer
	for _, block := range []*pem.Block{{Type: blockKey, Bytes: key}, {Type: blockCert, Bytes: c.Certificate[0]}, {Type: blockAuthority, Bytes: i.authority.Raw}} {
		if err := pem.Encode(&text, block); err != nil {
			return fmt.Errorf("encode the identity: %w", err)
		}
	}
	if err := durable.WriteFile(i.path, text.Bytes(), 0o600); err != nil {
		return fmt.Errorf("keep the host's identity: %w", err)
	}
	return nil
}

// Server is the configuration of the listener of a host that has joined: TLS 1.3, for control planes of its authority alone. A new certificate is in force for
// the connections that come after it.
func (i *Identity) Server() *tls.Config {
	i.mu.Lock()
	defer i.mu.Unlock()
	clients := x509.NewCertPool()
	clients.AddCert(i.authority)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		// A ticket would let a caller come back whose certificate is over.
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			i.mu.Lock()
			defer i.mu.Unlock()
			return i.current, nil
		},
		VerifyConnection: func(s tls.ConnectionState) error { return s.PeerCertificates[0].VerifyHostname(controlPlane) },
	}
}

// RequestCertificate implements IdentityService.
func (i *Identity) RequestCertificate(context.Context, *pb.RequestCertificateRequest) (*pb.RequestCertificateResponse, error) {
	request, err := i.Request()
	if err != nil {
		return nil, err
	}
	return &pb.RequestCertificateResponse{Request: request}, nil
}

// InstallCertificate implements IdentityService.
func (i *Identity) InstallCertificate(_ context.Context, req *pb.InstallCertificateRequest) (*pb.InstallCertificateResponse, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current != nil && bytes.Equal(i.current.Certificate[0], req.GetCertificate()) {
		return &pb.InstallCertificateResponse{}, nil
	}
	return &pb.InstallCertificateResponse{}, i.take(req.GetCertificate())
}
