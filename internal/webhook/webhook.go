// Package webhook sends events of sandboxes to where their accounts want them, signed as Standard Webhooks has it, and to public addresses only.
//
// What is to be sent are rows of Postgres, taken from the events up to a horizon. Of a webhook one replica at a time sends them, those of a sandbox one after the other; each at
// least once. Why it is as it is: docs/adr/0027-webhooks.md.
package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// The headers of Standard Webhooks.
const (
	headerID        = "Webhook-Id"
	headerTime      = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

const (
	secretPrefix = "whsec_"
	secretSize   = 32 // bytes; the standard has 24 to 64
	maxURL       = 2048
	// eventPrefix and a state make the type of an event.
	eventPrefix = "sandbox."
)

// PingType is the type of a message that is about no event.
const PingType = "webhook.ping"

// NewSecret returns a random secret.
func NewSecret() []byte {
	secret := make([]byte, secretSize)
	rand.Read(secret) // never fails: crypto/rand aborts the program when the system has no randomness
	return secret
}

// SecretText is the form in which a receiver gets its secret.
func SecretText(secret []byte) string {
	return secretPrefix + base64.StdEncoding.EncodeToString(secret)
}

// EventType is the type of the event that a sandbox has got into a state.
func EventType(s models.State) string { return eventPrefix + string(s) }

// sign sets the headers by which a receiver knows a message: signatures of it with each of the secrets.
func sign(h http.Header, message id.Message, at time.Time, body []byte, secrets ...[]byte) {
	seconds := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, 0, len(secrets))
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "%s.%s.%s", message, seconds, body) // never fails
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	h.Set(headerID, string(message))
	h.Set(headerTime, seconds)
	h.Set(headerSignature, strings.Join(signatures, " "))
}

// CheckURL refuses what nothing can be sent to: what is no URL of HTTP, and one with an address that is neither public nor in one of the networks allowed. A name is
// looked up when something is sent, and its addresses are judged then.
func CheckURL(text string, allowed []netip.Prefix) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "" || len(text) > maxURL:
		return models.Errorf(models.Invalid, "url must be a URL such as https://example.com/hook, with at most %d characters", maxURL)
	case u.Scheme != "https" && u.Scheme != "http":
		return models.Errorf(models.Invalid, "url must begin with https:// or http://, not %s:", u.Scheme)
	case u.User != nil:
		return models.Errorf(models.Invalid, "url must not have a user or a password").WithHint("the signature tells that a message is from here")
	case u.Fragment != "":
		return models.Errorf(models.Invalid, "url must not have a fragment")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return models.Errorf(models.Invalid, "url must have a port between 1 and 65535, or none")
		}
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil && !reachable(addr, allowed) {
		return models.Errorf(models.Invalid, "url has the address %s, which is not public", addr).WithHint("the operator can allow its network with webhook_networks (WRENN_WEBHOOK_NETWORKS)")
	}
	return nil
}

// reachable tells whether something may be sent to an address.
func reachable(addr netip.Addr, allowed []netip.Prefix) bool {
	addr = addr.Unmap().WithZone("")
	if slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return true
	}
	_, not := models.NotPublic(addr)
	return !not
}
