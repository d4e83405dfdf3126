package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

const (
	// maxHeader and maxBody are how much of an answer is read, of which nothing but the status is looked at.
	maxHeader, maxBody = 16 << 10, 4 << 10
	dialLimit          = 5 * time.Second
)

var errNotPublic = errors.New("the address of the receiver is not public")

// newClient returns a client that connects to public addresses and to those in allowed, to no other. It knows no proxy and follows no redirect: both would be ways around that.
func newClient(allowed []netip.Prefix) *http.Client {
	dialer := net.Dialer{
		Timeout: dialLimit,
		// The address is the peer's, after names were looked up: whatever a name server says later changes nothing.
		Control: func(_, address string, _ syscall.RawConn) error {
			peer, err := netip.ParseAddrPort(address)
			if err != nil || !reachable(peer.Addr(), allowed) {
				return errNotPublic
			}
			return nil
		},
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: dialLimit, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
			MaxResponseHeaderBytes: maxHeader, IdleConnTimeout: 30 * time.Second, MaxIdleConnsPerHost: 2, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// post sends a body and returns the status of the answer.
func post(ctx context.Context, client *http.Client, url string, header http.Header, body []byte) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxBody) // so that the connection can be used again; the answer is there already
	return resp.StatusCode, nil
}

// failed tells the account why an attempt was none; "" if it was one. Nothing that a receiver, a name server or a network says is repeated but the status.
func failed(status int, err error) string {
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	switch {
	case err == nil && status >= 200 && status <= 299:
		return ""
	case err == nil && status >= 300 && status <= 399:
		return fmt.Sprintf("the receiver answered with status %d: redirects are not followed", status)
	case err == nil:
		return fmt.Sprintf("the receiver answered with status %d", status)
	case errors.Is(err, errNotPublic):
		return errNotPublic.Error()
	case errors.As(err, &dns):
		return "the host name of the receiver could not be looked up"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "the receiver did not answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the receiver refused the connection"
	case errors.As(err, &certificate):
		return "the certificate of the receiver is not valid"
	default:
		return "the connection to the receiver failed"
	}
}

func isTimeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}
