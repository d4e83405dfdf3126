package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// Store is what a Sender needs of the database; see db.Store.
type Store interface {
	AnyWebhook(ctx context.Context) (bool, error)
	EventHorizon(ctx context.Context) (int64, error)
	ClaimWebhooks(ctx context.Context, horizon int64, most int, lease time.Duration) ([]db.LeasedWebhook, error)
	StillLeased(ctx context.Context, w db.LeasedWebhook) (db.LeasedWebhook, bool, error)
	ReleaseWebhook(ctx context.Context, w db.LeasedWebhook) error
	QueueDeliveries(ctx context.Context, w db.LeasedWebhook, horizon int64, most, maxPending int) (bool, error)
	NextMessages(ctx context.Context, w db.LeasedWebhook, most int) ([]db.Message, error)
	NoteDelivered(ctx context.Context, m db.Message, status int) error
	NoteNotDelivered(ctx context.Context, m db.Message, a db.Attempt) error
	NoteWebhookWorks(ctx context.Context, w db.LeasedWebhook) error
	NoteWebhookFails(ctx context.Context, w db.LeasedWebhook, a db.Attempt) error
	SweepDeliveries(ctx context.Context, keep time.Duration, most int) (int, error)
}

// Pace says how often and how long things are tried. The zero value of each means its default.
type Pace struct {
	Tick    time.Duration // between looks for what there is to send; 500 ms
	Timeout time.Duration // of an attempt; 10 s
	First   time.Duration // before the second attempt; doubled for each further one; 5 s
	Most    time.Duration // between two; 1 h
	GiveUp  time.Duration // after the first one, that a delivery is given up, or a webhook disabled to which nothing was delivered since; 24 h
	Lease   time.Duration // of the replica that sends; 2 min
}

func (p Pace) withDefaults() Pace {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&p.Tick, 500 * time.Millisecond}, {&p.Timeout, 10 * time.Second}, {&p.First, 5 * time.Second}, {&p.Most, time.Hour},
		{&p.GiveUp, 24 * time.Hour}, {&p.Lease, 2 * time.Minute},
	} {
		if *d.value == 0 {
			*d.value = d.usual
		}
	}
	return p
}

const (
	// hooksAtOnce is how many webhooks a replica sends to at the same time, and sendsAtOnce how many messages to each.
	hooksAtOnce, sendsAtOnce = 16, 8
	// queueAtOnce events are looked at at a time, while not more than maxPending wait to be sent.
	queueAtOnce, maxPending = 200, 1000
	storeLimit              = 10 * time.Second // of a look at the database
	keepEnded               = 7 * 24 * time.Hour
	sweepEvery, sweepAtOnce = time.Minute, 1000
	statusGone              = http.StatusGone
)

// Options of a Sender. All but Pace and Allowed are required.
type Options struct {
	Store   Store
	View    func(db.Event) any // an event as the API shows it
	Allowed []netip.Prefix     // networks that are not public, to which may be sent
	Log     *slog.Logger
	Pace    Pace
	Version string // of this program, which receivers are told
}

// Sender sends what there is to send. Every replica has one.
type Sender struct {
	Options
	client *http.Client
	slots  chan struct{}
	rounds sync.WaitGroup
}

// NewSender returns a sender that works while Run runs.
func NewSender(opts Options) *Sender {
	opts.Pace = opts.Pace.withDefaults()
	return &Sender{Options: opts, client: newClient(opts.Allowed), slots: make(chan struct{}, hooksAtOnce)}
}

// Run works until ctx ends.
func (s *Sender) Run(ctx context.Context) {
	defer s.client.CloseIdleConnections()
	defer s.rounds.Wait()
	tick := time.NewTicker(s.Pace.Tick)
	defer tick.Stop()
	var swept time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("webhooks not looked at: what is to be sent waits", "error", err)
		}
		if now := time.Now(); now.Sub(swept) >= sweepEvery {
			swept = now
			s.sweep(ctx)
		}
	}
}

// look begins a round for each webhook that there is something for, as far as there is room.
func (s *Sender) look(ctx context.Context) error {
	free := cap(s.slots) - len(s.slots)
	if free == 0 {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	if there, err := s.Store.AnyWebhook(limited); err != nil || !there {
		return err
	}
	horizon, err := s.Store.EventHorizon(limited)
	if err != nil {
		return err
	}
	claimed, err := s.Store.ClaimWebhooks(limited, horizon, free, s.Pace.Lease)
	if err != nil {
		return err
	}
	for _, w := range claimed {
		s.slots <- struct{}{} // there is room: nobody else fills it
		s.rounds.Go(func() {
			defer func() { <-s.slots }()
			s.round(ctx, w, horizon)
		})
	}
	return nil
}

// round sends to a webhook what there is, until that is all, something fails, or half of the lease is over.
func (s *Sender) round(ctx context.Context, w db.LeasedWebhook, horizon int64) {
	began := time.Now()
	for more := true; more && ctx.Err() == nil && time.Since(began) < s.Pace.Lease/2; {
		var err error
		if more, err = s.batch(ctx, w, horizon); err != nil {
			if ctx.Err() == nil {
				s.Log.Warn("a webhook waits", "webhook_id", w.ID, "error", err)
			}
			break
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer cancel()
	if err := s.Store.ReleaseWebhook(ctx, w); err != nil {
		s.Log.Warn("the lease of a webhook not released: what is to be sent waits for its end", "webhook_id", w.ID, "error", err)
	}
}

// batch sends one message of each of some sandboxes, and tells whether there is more to do now. Of a webhook that has failed it tries one.
func (s *Sender) batch(ctx context.Context, w db.LeasedWebhook, horizon int64) (more bool, _ error) {
	limited, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	w, still, err := s.Store.StillLeased(limited, w)
	if err != nil || !still {
		return false, err
	}
	if more, err = s.Store.QueueDeliveries(limited, w, horizon, queueAtOnce, maxPending); err != nil {
		return false, err
	}
	most := sendsAtOnce
	if w.Failures > 0 {
		most = 1
	}
	next, err := s.Store.NextMessages(limited, w, most)
	if err != nil || len(next) == 0 {
		return more, err
	}
	// Once more, now that it is known what to send: what was asked for after a rotation is signed with the secret that came of it.
	if w, still, err = s.Store.StillLeased(limited, w); err != nil || !still {
		return false, err
	}
	var sending sync.WaitGroup
	var worst atomic.Pointer[db.Attempt]
	for _, m := range next {
		sending.Go(func() {
			if a := s.attempt(ctx, w, m); a != nil && (a.Gone || worst.Load() == nil) {
				worst.Store(a)
			}
		})
	}
	sending.Wait()
	return s.judge(ctx, w, worst.Load())
}

// judge writes down whether a webhook works, and tells whether more may be sent to it now.
func (s *Sender) judge(ctx context.Context, w db.LeasedWebhook, worst *db.Attempt) (bool, error) {
	if ctx.Err() != nil {
		return false, nil // what was cut off says nothing of the receiver
	}
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	if worst == nil {
		if w.Failures == 0 {
			return true, nil
		}
		return true, s.Store.NoteWebhookWorks(ctx, w)
	}
	a := *worst
	a.Wait = s.backoff(w.Failures)
	return false, s.Store.NoteWebhookFails(ctx, w, a)
}

// backoff is how long to wait after so many failures and one more, at least half of it and the rest by chance.
func (s *Sender) backoff(failures int) time.Duration {
	wait := s.Pace.Most
	if failures < 30 { // beyond that it does not fit
		wait = min(wait, s.Pace.First<<failures)
	}
	return wait/2 + rand.N(wait/2+1)
}

// attempt sends a message, writes down what came of it, and returns that if it has failed.
func (s *Sender) attempt(ctx context.Context, w db.LeasedWebhook, m db.Message) *db.Attempt {
	status, err := s.send(ctx, w, m)
	if ctx.Err() != nil && err != nil {
		return nil
	}
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer cancel()
	why := failed(status, err)
	if why == "" {
		if err := s.Store.NoteDelivered(noting, m, status); err != nil {
			s.Log.Warn("a delivery not noted: it is made again", "webhook_id", w.ID, "delivery_id", m.ID, "error", err)
		}
		return nil
	}
	s.Log.Info("a delivery has failed", "webhook_id", w.ID, "delivery_id", m.ID, "status", status, "attempt", m.Attempts+1, "error", err)
	a := db.Attempt{Status: status, Error: why, Wait: s.backoff(m.Attempts), GiveUp: s.Pace.GiveUp, Gone: status == statusGone}
	if err := s.Store.NoteNotDelivered(noting, m, a); err != nil {
		s.Log.Warn("a failed delivery not noted: it is tried again soon", "webhook_id", w.ID, "delivery_id", m.ID, "error", err)
	}
	return &a
}

// send posts a message and returns the status of the answer.
func (s *Sender) send(ctx context.Context, w db.LeasedWebhook, m db.Message) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Pace.Timeout)
	defer cancel()
	body, err := s.body(m, w.ID)
	if err != nil {
		return 0, err
	}
	secrets := [][]byte{w.Secret}
	if w.OldSecret != nil && time.Now().Before(w.OldUntil) {
		secrets = append(secrets, w.OldSecret)
	}
	header := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"wrenn-webhook/" + s.Version}}
	sign(header, m.ID, time.Now(), body, secrets...)
	return post(ctx, s.client, w.URL, header, body)
}

// body is what a receiver gets; the same each time that the message is sent.
func (s *Sender) body(m db.Message, w id.Webhook) ([]byte, error) {
	kind, data := PingType, any(map[string]id.Webhook{"webhook_id": w})
	if m.Event != nil {
		kind, data = EventType(m.Event.To), s.View(*m.Event)
	}
	b, err := json.Marshal(struct {
		Type string `json:"type"`
		Time string `json:"timestamp"`
		Data any    `json:"data"`
	}{kind, m.At.UTC().Format("2006-01-02T15:04:05.000Z07:00"), data})
	if err != nil {
		return nil, fmt.Errorf("encode message %s: %w", m.ID, err)
	}
	return b, nil
}

func (s *Sender) sweep(ctx context.Context) {
	for n := sweepAtOnce; n == sweepAtOnce && ctx.Err() == nil; {
		var err error
		if n, err = s.Store.SweepDeliveries(ctx, keepEnded, sweepAtOnce); err != nil && ctx.Err() == nil {
			s.Log.Warn("deliveries that have ended not removed", "error", err)
		}
	}
}
