package wrenn

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// DefaultTolerance is how far the time of a message may be from a receiver's clock.
const DefaultTolerance = 5 * time.Minute

// ErrNotSigned is returned for a message that is not from the service, was changed on the way, or is too old.
var ErrNotSigned = errors.New("the message is not signed with the secret of the webhook, or too old")

// Message is what a webhook receives.
type Message struct {
	ID        string          `json:"-"` // the same each time that it is sent: who has it already needs it no more
	Type      string          `json:"type"`
	Timestamp time.Time       `json:"timestamp"` // of the event
	Data      json.RawMessage `json:"data"`      // of a type that begins with "sandbox.", an Event
}

// Event returns the event that a message is about; an error for one that is about none.
func (m Message) Event() (Event, error) {
	var e Event
	if !strings.HasPrefix(m.Type, "sandbox.") {
		return e, invalid("a message of the type %q is about no event", m.Type)
	}
	if err := json.Unmarshal(m.Data, &e); err != nil {
		return e, invalid("decode event: %v", err)
	}
	return e, nil
}

// VerifyWebhook returns the message of a request to a receiver, if it is signed with the secret, which begins with whsec_, and its time is within DefaultTolerance of now. Body is that of the
// request, as it came. Comparisons take the same time whatever they compare.
func VerifyWebhook(secret string, header http.Header, body []byte) (*Message, error) {
	return verifyWebhook(secret, header, body, DefaultTolerance, time.Now())
}

// VerifyWebhookWithin is VerifyWebhook with another tolerance.
func VerifyWebhookWithin(secret string, header http.Header, body []byte, tolerance time.Duration) (*Message, error) {
	return verifyWebhook(secret, header, body, tolerance, time.Now())
}

func verifyWebhook(secret string, header http.Header, body []byte, tolerance time.Duration, now time.Time) (*Message, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) == 0 {
		return nil, invalid("the secret of a webhook begins with whsec_, and base64 follows")
	}
	id, at := header.Get("webhook-id"), header.Get("webhook-timestamp")
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + at + ".")) // never fails
	mac.Write(body)                        // likewise
	if !hasSignature(header.Get("webhook-signature"), mac.Sum(nil)) || !isNear(at, now, tolerance) {
		return nil, ErrNotSigned
	}
	m := Message{ID: id}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, invalid("decode message: %v", err)
	}
	return &m, nil
}

// hasSignature tells whether one of the signatures of a header is the one wanted.
func hasSignature(header string, want []byte) bool {
	found := false
	for _, text := range strings.Fields(header) {
		encoded, isV1 := strings.CutPrefix(text, "v1,")
		got, err := base64.StdEncoding.DecodeString(encoded)
		if isV1 && err == nil && hmac.Equal(got, want) {
			found = true
		}
	}
	return found
}

func isNear(text string, now time.Time, tolerance time.Duration) bool {
	seconds, err := strconv.ParseInt(text, 10, 64)
	return err == nil && now.Sub(time.Unix(seconds, 0)).Abs() <= tolerance
}
