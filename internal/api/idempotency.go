package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

const (
	idempotencyHeader = "Idempotency-Key"
	replayedHeader    = "Idempotency-Replayed"

	// keepAnswers is how long a request with the same key gets the same answer.
	keepAnswers = 24 * time.Hour
	// maxKept is the largest answer that is kept, in bytes.
	maxKept = 1 << 20
	// claimPollFirst and claimPollMost are how often a request looks whether the one before, with the same key, has its answer.
	claimPollFirst, claimPollMost = 10 * time.Millisecond, 500 * time.Millisecond
	// finishLimit bounds the writing of an answer, which happens also after the client has gone.
	finishLimit = 10 * time.Second
)

var idempotencyForm = regexp.MustCompile(`^[\x21-\x7e]{1,255}$`)

// keptHeaders are those of an answer that a replay has too.
var keptHeaders = []string{"Content-Type", "Location"}

// idempotent answers a request with an idempotency key once, and with the same answer each time. Why it is as it is: docs/adr/0025-idempotency-keys.md.
func (s *Server) idempotent(next http.Handler) http.Handler {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		key, err := idempotencyKey(r)
		if err != nil {
			return err
		}
		if key == "" {
			next.ServeHTTP(w, r)
			return nil
		}
		n, err := s.newClaim(w, r, key)
		if err != nil {
			return err
		}
		c, err := s.claim(r.Context(), w, n)
		if err != nil {
			return err
		}
		if c.Answer != nil {
			return replay(w, c.Answer)
		}
		s.attempt(w, r, next, c.Claim)
		return nil
	})
}

// idempotencyKey returns the key of a request; "" for none, and where it does not matter: what only reads, and the content of a file,
// which is what it is however often it is written.
func idempotencyKey(r *http.Request) (string, error) {
	keys := r.Header.Values(idempotencyHeader)
	if len(keys) == 0 || r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodPut {
		return "", nil
	}
	switch {
	case len(keys) > 1:
		return "", models.Errorf(models.Invalid, "the request has more than one %s", idempotencyHeader)
	case !idempotencyForm.MatchString(keys[0]):
		return "", models.Errorf(models.Invalid, "%s must be 1 to 255 visible ASCII characters", idempotencyHeader).WithHint("a random UUID will do")
	case accepts(r, eventStream):
		return "", models.Errorf(models.Invalid, "an answer that is a stream cannot be given again: %s is not possible with Accept: %s", idempotencyHeader, eventStream).
			WithHint("leave one of them out; a program of POST …/processes can be followed by several requests")
	}
	return keys[0], nil
}

func (s *Server) newClaim(w http.ResponseWriter, r *http.Request, key string) (db.NewClaim, error) {
	if strings.HasSuffix(r.URL.Path, "/stdin") {
		return db.NewClaim{}, models.Errorf(models.Invalid, "a body that is a stream cannot be sent again: %s is not possible here", idempotencyHeader).WithHint("leave it out")
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return db.NewClaim{}, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	fingerprint := sha256.New()
	fmt.Fprintf(fingerprint, "%s %s?%s\n%s\n", r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Content-Type"))
	fingerprint.Write(body) // never fails
	// The attempt has a name of its own: that of a request may be its client's.
	return db.NewClaim{
		Account: by(r).Account, Key: key, Fingerprint: [32]byte(fingerprint.Sum(nil)), Attempt: id.NewRequest(), Lease: s.Limits.ClaimLease, Keep: keepAnswers,
	}, nil
}

// claim returns the right to answer, or the answer, for which it waits a while.
func (s *Server) claim(ctx context.Context, w http.ResponseWriter, n db.NewClaim) (db.Claimed, error) {
	end := time.Now().Add(s.Limits.ClaimWait)
	for wait := claimPollFirst; ; wait = min(2*wait, claimPollMost) {
		c, err := s.Store.Claim(ctx, n)
		switch {
		case err != nil:
			return c, err
		case c.Misuse:
			return c, withStatus(http.StatusUnprocessableEntity, models.Errorf(models.Invalid, "the idempotency key was used for another request").
				WithHint("a key is for one request and its repetitions: same method, path, query and body"))
		case c.Claim != nil || c.Answer != nil:
			return c, nil
		case time.Now().Add(wait).After(end):
			w.Header().Set("Retry-After", "2")
			return c, models.Errorf(models.Conflict, "the first request with this idempotency key is still under way").WithHint("repeat the request in a few seconds, with the same key")
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return c, ctx.Err()
		}
	}
}

func replay(w http.ResponseWriter, a *db.Answer) error {
	if a.Status == 0 {
		return models.Errorf(models.Conflict, "the request with this idempotency key was carried out, and its answer, a secret or larger than %d bytes, is not kept", maxKept).
			WithHint("of secrets ask for another one, with another key; have programs write large output to a file, and read that")
	}
	for name, value := range a.Headers {
		w.Header().Set(name, value)
	}
	w.Header().Set(replayedHeader, "true")
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // a client that has gone needs no answer
	return nil
}

// attempt has next answer, keeps the answer if it is one for good, and sends it. It holds the claim meanwhile.
func (s *Server) attempt(w http.ResponseWriter, r *http.Request, next http.Handler, c *db.Claim) {
	a := aboutOf(r.Context())
	a.claim = c
	rec := &recording{ResponseWriter: w, status: http.StatusOK}
	stop := s.holdClaim(c) //nolint:contextcheck // it is held until stop, also when the client has gone
	done := false
	defer func() {
		stop()
		if !done { // a panic, which somebody else answers
			s.finish(r, c, nil)
		}
	}()
	next.ServeHTTP(rec, r)
	done = true
	s.finish(r, c, rec)
	rec.send()
}

// finish keeps what was answered, or lets the next request with the key try again.
func (s *Server) finish(r *http.Request, c *db.Claim, rec *recording) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), finishLimit)
	defer cancel()
	var err error
	if rec != nil && (aboutOf(ctx).reached || lasting(rec.status)) {
		err = s.Store.KeepAnswer(ctx, c, rec.answer())
	} else {
		err = s.Store.ReleaseClaim(ctx, c)
	}
	if err != nil {
		s.Log.WarnContext(ctx, "answer to a request with an idempotency key not kept: the next one is a new attempt", "request_id", aboutOf(ctx).requestID, "error", err)
	}
}

// lasting tells whether the same request has the same answer a moment later.
func lasting(status int) bool {
	return status < http.StatusInternalServerError && status != http.StatusTooManyRequests
}

// holdClaim renews a claim until stop is called.
func (s *Server) holdClaim(c *db.Claim) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(s.Limits.ClaimLease / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				_ = s.Store.RenewClaim(ctx, c, s.Limits.ClaimLease) // if it is lost, what is inserted under it fails
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// enterGuest says that a request is about to have an effect inside a sandbox, where nothing can be found again or undone: at most one attempt gets that far.
func enterGuest(r *http.Request) error {
	a := aboutOf(r.Context())
	if a.claim != nil && a.claim.CutOff {
		return models.Errorf(models.Conflict, "the first request with this idempotency key was cut off, and nobody knows how far it came").
			WithHint("look at what is there in the sandbox and decide anew, with another key")
	}
	a.reached = true
	return nil
}

// sweepEvery is how often answers that have expired are looked for, and sweepAtOnce how many are forgotten at a time.
const sweepEvery, sweepAtOnce = time.Minute, 1000

// SweepAnswers forgets answers to requests with idempotency keys that have expired, until ctx ends. All replicas may do it.
func (s *Server) SweepAnswers(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			for n := sweepAtOnce; n == sweepAtOnce && ctx.Err() == nil; {
				var err error
				if n, err = s.Store.SweepKeys(ctx, sweepAtOnce); err != nil {
					s.Log.WarnContext(ctx, "answers that have expired not removed", "error", err)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}
