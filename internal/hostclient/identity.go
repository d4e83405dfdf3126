package hostclient

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// Certificate returns what the agent has shown last, nil before the first connection and where there is no TLS.
func (c *Client) Certificate() *x509.Certificate { return c.peer.Load() }

// Renew has the agent make a key and take the certificate that sign, given its request, returns. Connections that there are go on with the one before.
func (c *Client) Renew(ctx context.Context, sign func(request []byte) ([]byte, error)) error {
	ctx, cancel := context.WithTimeout(ctx, promptLimit)
	defer cancel()
	asked, err := c.identity.RequestCertificate(ctx, &pb.RequestCertificateRequest{})
	if err != nil {
		return grpcerr.Decode(err)
	}
	der, err := sign(asked.GetRequest())
	if err != nil {
		return err
	}
	if _, err := c.identity.InstallCertificate(ctx, &pb.InstallCertificateRequest{Certificate: der}); err != nil {
		return grpcerr.Decode(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("read the certificate of the host: %w", err)
	}
	c.peer.Store(made)
	return nil
}
