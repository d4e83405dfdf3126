package server_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/boot"
	"github.com/wrenn-sandbox/wrenn/envd/internal/server"
)

var entropy = base64.StdEncoding.EncodeToString(make([]byte, 32))

func resumeBody(more string) string {
	return fmt.Sprintf(`{"accessToken":"second","timestamp":"2026-01-02T03:04:05Z","entropy":%q%s}`, entropy, more)
}

// resume returns the certificate, each step in a word.
func (e *envd) resume(body, with string) (bool, string) {
	e.Helper()
	status, text := e.request("POST", "/resume", body, token(with))
	if status != http.StatusOK {
		e.Fatalf("resume: %d %s", status, text)
	}
	var c struct {
		OK    bool
		Steps []struct {
			Name, Reason string
			OK           bool
		}
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		e.Fatal(err)
	}
	var words []string
	for _, s := range c.Steps {
		words = append(words, fmt.Sprintf("%s:%v%s", s.Name, s.OK, s.Reason))
	}
	return c.OK, strings.Join(words, " ")
}

// A resume gives the guest what the host says, renews the token, and says what it did.
func TestResume(t *testing.T) {
	var got boot.Identity
	e := start(t, server.Options{Resume: func(_ context.Context, id boot.Identity) []boot.Result {
		got = id
		return []boot.Result{{Name: "clock"}, {Name: "mac", Kept: true}}
	}})
	e.init(`{"accessToken":"first"}`)
	ok, steps := e.resume(resumeBody(`,"hostname":"sb-1","machineId":"00112233445566778899aabbccddeeff","mac":"02:00:00:00:00:07","network":{"address":"10.0.0.2/30","gateway":"10.0.0.1"}`), "first")
	if !ok || steps != "clock:true mac:true token:true" {
		t.Errorf("certificate %v %s", ok, steps)
	}
	if got.Hostname != "sb-1" || got.MachineID != "00112233445566778899aabbccddeeff" || got.MAC.String() != "02:00:00:00:00:07" ||
		len(got.Entropy) != 32 || !got.Time.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || got.Address.String() != "10.0.0.2/30" {
		t.Errorf("identity %+v", got)
	}
	if status, _ := e.request("GET", "/envs", "", token("first")); status != http.StatusUnauthorized {
		t.Errorf("the old token: %d", status)
	}
	if status, _ := e.request("GET", "/envs", "", token("second")); status != http.StatusOK {
		t.Errorf("the new token: %d", status)
	}
}

// A step that fails is told, and nothing comes after it: the token stays, for the guest is not to be used.
func TestResumeFails(t *testing.T) {
	e := start(t, server.Options{Resume: func(context.Context, boot.Identity) []boot.Result {
		return []boot.Result{{Name: "clock"}, {Name: "randomness", Err: errors.New("no luck")}}
	}})
	e.init(`{"accessToken":"first"}`)
	if ok, steps := e.resume(resumeBody(""), "first"); ok || steps != "clock:true randomness:falseno luck" {
		t.Errorf("certificate %v %s", ok, steps)
	}
	if status, _ := e.request("GET", "/envs", "", token("second")); status != http.StatusUnauthorized {
		t.Errorf("the token of a failed resume: %d", status)
	}
}

// TestFirstResumeWins: of many callers that would take over a guest without an owner.
func TestFirstResumeWins(t *testing.T) {
	e := start(t, server.Options{Resume: func(context.Context, boot.Identity) []boot.Result {
		time.Sleep(20 * time.Millisecond) // lets others come in the meantime
		return nil
	}})
	var group sync.WaitGroup
	var won atomic.Int64
	for range 20 {
		group.Go(func() {
			if status, _ := e.request("POST", "/resume", resumeBody(""), nil); status == http.StatusOK {
				won.Add(1)
			} else if status != http.StatusUnauthorized {
				t.Errorf("a later one: %d", status)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 {
		t.Errorf("%d have taken it over", won.Load())
	}
}

func TestResumeIsRefused(t *testing.T) {
	e := start(t, server.Options{Resume: func(context.Context, boot.Identity) []boot.Result {
		t.Error("a request that is refused was carried out")
		return nil
	}})
	e.init(`{"accessToken":"first"}`)
	if status, _ := e.request("POST", "/resume", resumeBody(""), nil); status != http.StatusUnauthorized {
		t.Errorf("without the token: %d", status)
	}
	for name, body := range map[string]string{
		"nothing": "", "no JSON": "{", "no token": `{"timestamp":"2026-01-02T03:04:05Z","entropy":"` + entropy + `"}`,
		"no time": `{"accessToken":"x","entropy":"` + entropy + `"}`, "little entropy": `{"accessToken":"x","timestamp":"2026-01-02T03:04:05Z","entropy":"AAAA"}`,
		"too much": resumeBody(`,"envVars":{"A":"` + strings.Repeat("x", 1<<20) + `"}`),
		"no MAC":   resumeBody(`,"mac":"02"`), "no hostname": resumeBody(`,"hostname":"a b"`),
	} {
		if status, text := e.request("POST", "/resume", body, token("first")); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
}

// A scrub is for a guest without an owner; where there is one, it takes its token. A guest that was told to forget has no owner any more.
func TestScrub(t *testing.T) {
	scrubbed, synced := 0, 0
	var failure error
	e := start(t, server.Options{Scrub: func() error { scrubbed++; return failure }, Sync: func() error { synced++; return failure }})
	if status, text := e.request("POST", "/scrub", "", nil); status != http.StatusNoContent || scrubbed != 1 {
		t.Errorf("scrub: %d %s, done %d times", status, text, scrubbed)
	}
	failure = errors.New("no memory")
	if status, text := e.request("POST", "/scrub", "", nil); status != http.StatusInternalServerError || !strings.Contains(text, "no memory") {
		t.Errorf("scrub that fails: %d %s", status, text)
	}
	if status, _ := e.request("POST", "/forget", "", nil); status != http.StatusUnauthorized {
		t.Errorf("forget, without an owner: %d", status)
	}
	e.init(`{"accessToken":"first"}`)
	failure = nil
	for _, path := range []string{"/scrub", "/forget"} {
		if status, _ := e.request("POST", path, "", nil); status != http.StatusUnauthorized {
			t.Errorf("%s by a stranger: %d", path, status)
		}
		if status, text := e.request("POST", path, "", token("first")); status != http.StatusNoContent {
			t.Errorf("%s by the owner: %d %s", path, status, text)
		}
	}
	if scrubbed != 3 || synced != 1 {
		t.Errorf("scrubbed %d times, synced %d times", scrubbed, synced)
	}
	if status, _ := e.request("GET", "/envs", "", token("first")); status != http.StatusUnauthorized {
		t.Errorf("the token after it was to be forgotten: %d", status)
	}
	if ok, steps := e.resume(resumeBody(""), "nobody's"); !ok {
		t.Errorf("resume of one that has forgotten: %s", steps)
	}
	e = start(t, server.Options{})
	e.init(`{"accessToken":"first"}`)
	for _, path := range []string{"/scrub", "/forget"} {
		if status, _ := e.request("POST", path, "", token("first")); status != http.StatusNotImplemented {
			t.Errorf("%s of what is no guest: %d", path, status)
		}
	}
	if status, _ := e.request("GET", "/envs", "", token("first")); status != http.StatusOK {
		t.Errorf("the token after a refusal: %d", status)
	}
}

// A guest that was told to forget has no connections a moment later, but those that came since; one that was not keeps them.
func TestForgetHangsUp(t *testing.T) {
	var failure error
	e := start(t, server.Options{Sync: func() error { return failure }})
	e.init(`{"accessToken":"first"}`)
	used, silent := e.wire(), e.connect()
	used.wants(http.StatusNoContent, "GET /health", "", "")
	if status, _ := e.request("POST", "/forget", "", token("wrong")); status != http.StatusUnauthorized {
		t.Errorf("forget by a stranger: %d", status)
	}
	failure = errors.New("no disk")
	if status, _ := e.request("POST", "/forget", "", token("first")); status != http.StatusInternalServerError {
		t.Errorf("forget that fails: %d", status)
	}
	failure = nil
	_ = silent.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // some times as long as it may take
	if _, err := silent.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a refusal ended a connection: %v", err)
	}
	used.wants(http.StatusNoContent, "GET /health", "", "")

	e.init(`{"accessToken":"second"}`) // it has forgotten the first, though what waits for the disk was not written
	if status, text := e.request("POST", "/forget", "", token("second")); status != http.StatusNoContent {
		t.Errorf("forget: %d %s", status, text)
	}
	next := e.wire()
	for name, conn := range map[string]net.Conn{"used": used.conn, "silent": silent} {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the one that is %s was not ended: %d bytes, %v", name, n, err)
		}
	}
	next.wants(http.StatusNoContent, "GET /health", "", "")
}
