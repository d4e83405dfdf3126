// Package lago delivers what accounts have used to Lago, which bills it: https://getlago.com/docs/api-reference/events/batch.
//
// Each usage event is sent until Lago has it. It knows an event that it has already by its transaction_id, and where its events are in ClickHouse by that and the timestamp: an event that is
// sent again is the same to the letter. So each counts once, whoever dies in between.
package lago

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/usage"
)

const (
	// MaxBatch is how many events Lago takes at once.
	MaxBatch   = 100
	sendLimit  = 30 * time.Second
	maxAnswer  = 1 << 20
	duplicate  = "value_already_exist"
	longestWhy = 500 // characters of an answer that are kept
)

// Options of a client. All are required.
type Options struct {
	URL   string // of Lago's API, without /api/v1
	Key   string
	Codes map[usage.Metric]string // of Lago's billable metrics
}

// Client sends events.
type Client struct {
	opts Options
	http *http.Client
}

// NewClient returns a client. It does not connect.
func NewClient(opts Options) *Client {
	return &Client{opts: opts, http: &http.Client{
		Timeout: sendLimit,
		// A POST that is led elsewhere would arrive as a GET, and the key at somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// wireEvent is an event as Lago's API has it.
type wireEvent struct {
	Transaction  string            `json:"transaction_id"`
	Subscription string            `json:"external_subscription_id"`
	Code         string            `json:"code"`
	Timestamp    int64             `json:"timestamp"` // in whole seconds
	Properties   map[string]string `json:"properties"`
}

// wire is the form of an event. Its time is that of its beginning, so that an hour counts in the billing period that it lies in.
func (c *Client) wire(e usage.Event) wireEvent {
	w := wireEvent{
		Transaction: e.Transaction, Subscription: string(e.Account), Code: c.opts.Codes[e.Metric], Timestamp: e.Begin.Unix(),
		Properties: map[string]string{
			"value": e.Value, "kind": string(e.Kind), "sandbox_id": string(e.Sandbox),
			"from": e.Begin.UTC().Format(time.RFC3339Nano), "to": e.End.UTC().Format(time.RFC3339Nano),
		},
	}
	if e.Snapshot != "" {
		w.Properties["snapshot_id"] = string(e.Snapshot)
	}
	return w
}

// verdicts are what Lago says of the events of a batch that it has refused, by their places in it: "" for one that it has already, else what is wrong with it. It has taken none of the
// others, or, in versions before that of December 2025, has taken them all.
type verdicts map[int]string

// refusal is an answer that says that the batch is wrong.
type refusal struct {
	verdicts verdicts // none where the answer is about the whole
	why      string
}

func (r *refusal) Error() string { return r.why }

// failure is why nothing is known of a batch, or why it was not looked at.
type failure struct {
	why        string
	retryAfter time.Duration // that Lago asked for; 0 for nothing
}

func (f *failure) Error() string { return f.why }

// send sends up to MaxBatch events at once. Without an error Lago has all of them; else the error is a *refusal or a *failure.
func (c *Client) send(ctx context.Context, events []usage.Event) error {
	batch := map[string][]wireEvent{"events": make([]wireEvent, len(events))}
	for i, e := range events {
		batch["events"][i] = c.wire(e)
	}
	body, err := json.Marshal(batch)
	if err != nil {
		return fmt.Errorf("encode usage events: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.opts.URL, "/")+"/api/v1/events/batch", bytes.NewReader(body))
	if err != nil {
		return &failure{why: err.Error()}
	}
	req.Header.Set("Authorization", "Bearer "+c.opts.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return &failure{why: err.Error()}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return &failure{why: "Lago's answer breaks off: " + err.Error()}
	}
	return verdict(resp, answer)
}

func verdict(resp *http.Response, answer []byte) error {
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		return &refusal{verdicts: verdictsOf(answer), why: whyOf(resp, answer)}
	}
	f := &failure{why: whyOf(resp, answer)}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		f.retryAfter = time.Duration(seconds) * time.Second
	}
	return f
}

func whyOf(resp *http.Response, answer []byte) string {
	text := strings.ToValidUTF8(strings.ReplaceAll(string(answer), "\x00", ""), "")
	return fmt.Sprintf("Lago answered %s: %s", resp.Status, text[:min(len(text), longestWhy)])
}

// verdictsOf reads what is said of single events: {"error_details": {"0": {"transaction_id": ["value_already_exist"]}}}. Where an event has another fault beside, it is that which counts.
func verdictsOf(answer []byte) verdicts {
	var a struct {
		Details map[string]map[string][]string `json:"error_details"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil
	}
	all := verdicts{}
	for place, faults := range a.Details {
		i, err := strconv.Atoi(place)
		if err != nil {
			continue
		}
		var why []string
		for field, codes := range faults {
			for _, code := range codes {
				if field != "transaction_id" || code != duplicate {
					why = append(why, field+": "+code)
				}
			}
		}
		all[i] = strings.Join(why, ", ")
	}
	return all
}

func asRefusal(err error) (*refusal, bool) {
	var r *refusal
	ok := errors.As(err, &r)
	return r, ok
}
