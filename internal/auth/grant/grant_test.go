package grant

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

var now = time.Unix(1_700_000_000, 0)

func signer(t *testing.T, b byte) *Signer {
	t.Helper()
	s, err := NewSigner(bytes.Repeat([]byte{b}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var sample = Grant{Kind: Port, Sandbox: "sb-0123abcd", Account: "acc-00000001", Port: 8080, Expires: now.Add(time.Hour)}

func TestGrant(t *testing.T) {
	text := signer(t, 1).Sign(sample)
	got, err := signer(t, 1).Check(Port, text, now) // another replica
	if err != nil || got != sample {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestRefused(t *testing.T) {
	s := signer(t, 1)
	text := s.Sign(sample)
	other := sample
	other.Port = 8081
	claims, _, _ := strings.Cut(s.Sign(other), ".")
	_, sum, _ := strings.Cut(text, ".")
	for name, c := range map[string]struct {
		signer *Signer
		kind   Kind
		text   string
		at     time.Time
	}{
		"another key":     {signer(t, 2), Port, text, now},
		"another kind":    {s, Terminal, text, now},
		"a renamed kind":  {s, Terminal, strings.Replace(text, "wpt_", "wtt_", 1), now},
		"other claims":    {s, Port, claims + "." + sum, now},
		"expired":         {s, Port, text, sample.Expires},
		"empty":           {s, Port, "", now},
		"no sum":          {s, Port, strings.TrimSuffix(text, sum), now},
		"a cut sum":       {s, Port, text[:len(text)-1], now},
		"something after": {s, Port, text + "A", now},
		"endless":         {s, Port, text + strings.Repeat("A", 1<<20), now},
	} {
		if g, err := c.signer.Check(c.kind, c.text, c.at); models.CodeOf(err) != models.Unauthenticated {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
}

// Every change of a character, also of bits that base64 leaves over, makes another text, which is refused.
func TestEveryCharacterCounts(t *testing.T) {
	s := signer(t, 1)
	text := []byte(s.Sign(sample))
	for i := range text {
		for _, c := range []byte("AZaz09-_.") {
			changed := bytes.Clone(text)
			if changed[i] = c; bytes.Equal(changed, text) {
				continue
			}
			if _, err := s.Check(Port, string(changed), now); err == nil {
				t.Errorf("%s passes for %s", changed, text)
			}
		}
	}
}

func TestKeySize(t *testing.T) {
	if _, err := NewSigner(make([]byte, 16)); err == nil {
		t.Error("a short key was taken")
	}
}
