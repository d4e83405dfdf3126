package lago

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

const standInKey = "a-key"

// standIn is an HTTP server that takes events as Lago documents it, strictly, and knows those that it has by their transaction_id. Its faults are drawn from random.
type standIn struct {
	t   *testing.T
	url string

	mu     sync.Mutex // guards what follows
	events map[string]wireEvent
	calls  int
	known  int                     // how many events it was sent that it had
	random *rand.Rand              // nil for no faults
	storer bool                    // it stores the good events of a batch that it refuses, as Lago did before December 2025
	fault  func(e wireEvent) error // what is wrong with an event; nil for nothing
	blunt  bool                    // it does not say which events of a batch are wrong
	status int                     // of all answers; 0 for the right one
}

func newStandIn(t *testing.T) *standIn {
	t.Helper()
	s := &standIn{t: t, events: map[string]wireEvent{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *standIn) with(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// has returns the events that it has, how often it was called, and how many events it was sent again.
func (s *standIn) has() (events []wireEvent, calls, known int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.events)), s.calls, s.known
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	events, err := parse(r, body)
	if err != nil {
		s.t.Errorf("no request of Lago's API: %v: %s", err, body)
	}
	if s.status != 0 {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(s.status)
		return
	}
	fate := 9
	switch {
	case s.random != nil && s.calls == 1:
		fate = 2
	case s.random != nil && s.blunt: // it is asked for each event by itself, so it must fail less often
		fate = s.random.IntN(100)
	case s.random != nil:
		fate = s.random.IntN(10)
	}
	if fate == 0 {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	if fate == 1 {
		panic(http.ErrAbortHandler) // the connection breaks before anything is stored
	}
	details := s.take(events)
	if fate <= 5 {
		panic(http.ErrAbortHandler) // and here after that
	}
	s.answer(w, events, details)
}

// take stores events, or returns what is wrong with which of them.
func (s *standIn) take(events []wireEvent) map[string]map[string][]string {
	details := map[string]map[string][]string{}
	for i, e := range events {
		if _, there := s.events[e.Transaction]; there {
			details[fmt.Sprint(i)] = map[string][]string{"transaction_id": {duplicate}}
			s.known++
		} else if s.fault != nil && s.fault(e) != nil {
			details[fmt.Sprint(i)] = map[string][]string{"properties": {s.fault(e).Error()}}
		}
	}
	for i, e := range events {
		if details[fmt.Sprint(i)] == nil && (len(details) == 0 || s.storer) {
			s.events[e.Transaction] = e
		}
	}
	return details
}

func (s *standIn) answer(w http.ResponseWriter, events []wireEvent, details map[string]map[string][]string) {
	w.Header().Set("Content-Type", "application/json")
	if len(details) == 0 {
		_ = json.NewEncoder(w).Encode(map[string]any{"events": events}) // a client that has gone needs no answer
		return
	}
	w.WriteHeader(http.StatusUnprocessableEntity)
	answer := map[string]any{"status": 422, "error": "Unprocessable Entity", "code": "validation_errors", "error_details": details}
	if s.blunt && len(events) > 1 {
		answer["error_details"] = map[string]any{"events": []string{"something_is_wrong"}}
	}
	_ = json.NewEncoder(w).Encode(answer) // likewise
}

// parse reads a request as https://getlago.com/docs/api-reference/events/batch has it, and no other.
func parse(r *http.Request, body []byte) ([]wireEvent, error) {
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/api/v1/events/batch" || r.URL.RawQuery != "":
		return nil, fmt.Errorf("%s %s", r.Method, r.URL)
	case r.Header.Get("Authorization") != "Bearer "+standInKey:
		return nil, fmt.Errorf("Authorization: %s", r.Header.Get("Authorization"))
	case r.Header.Get("Content-Type") != "application/json":
		return nil, fmt.Errorf("Content-Type: %s", r.Header.Get("Content-Type"))
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	var batch struct {
		Events []wireEvent `json:"events"`
	}
	if err := dec.Decode(&batch); err != nil || dec.More() {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	if len(batch.Events) == 0 || len(batch.Events) > 100 {
		return nil, fmt.Errorf("%d events", len(batch.Events))
	}
	seen := map[string]bool{}
	for _, e := range batch.Events {
		value, ok := new(big.Rat).SetString(e.Properties["value"])
		if e.Transaction == "" || seen[e.Transaction] || e.Subscription == "" || e.Code == "" || e.Timestamp <= 0 || !ok || value.Sign() <= 0 {
			return nil, fmt.Errorf("event %+v", e)
		}
		seen[e.Transaction] = true
	}
	return batch.Events, nil
}

// sums adds up what is stored, by subscription and code.
func (s *standIn) sums() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	exact := map[string]*big.Rat{}
	for _, e := range s.events {
		key := e.Subscription + " " + e.Code
		value, _ := new(big.Rat).SetString(e.Properties["value"])
		if exact[key] == nil {
			exact[key] = new(big.Rat)
		}
		exact[key].Add(exact[key], value)
	}
	sums := map[string]string{}
	for key, sum := range exact {
		sums[key] = sum.FloatString(9)
	}
	return sums
}

// TestStandInIsStrict: the check that the tests here rely on does find faults.
func TestStandInIsStrict(t *testing.T) {
	const good = `{"transaction_id":"t","external_subscription_id":"acc-1","code":"c","timestamp":1650893379,"properties":{"value":"1.5"}}`
	ask := func(change func(*http.Request), body string) error {
		r := httptest.NewRequest(http.MethodPost, "/api/v1/events/batch", nil)
		r.Header = http.Header{"Authorization": {"Bearer " + standInKey}, "Content-Type": {"application/json"}}
		change(r)
		_, err := parse(r, []byte(body))
		return err
	}
	nothing := func(*http.Request) {}
	if err := ask(nothing, `{"events":[`+good+`]}`); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		``, `{"events":[]}`, `{"events":[` + good + `,` + good + `]}`, `{"event":` + good + `}`, `{"events":[` + good + `]}{}`, `{"events":[{"event":` + good + `}]}`,
		`{"events":[` + strings.Replace(good, `"t"`, `""`, 1) + `]}`, `{"events":[` + strings.Replace(good, `1650893379`, `"now"`, 1) + `]}`, `{"events":[` + strings.Replace(good, `1.5`, `much`, 1) + `]}`,
		`{"events":[` + strings.Join(slices.Repeat([]string{good}, 101), ",") + `]}`,
	} {
		if ask(nothing, bad) == nil {
			t.Errorf("no fault found in %s", bad)
		}
	}
	for name, change := range map[string]func(*http.Request){
		"key": func(r *http.Request) { r.Header.Del("Authorization") }, "type": func(r *http.Request) { r.Header.Del("Content-Type") },
		"path": func(r *http.Request) { r.URL.Path = "/events/batch" }, "method": func(r *http.Request) { r.Method = http.MethodPut },
	} {
		if ask(change, `{"events":[`+good+`]}`) == nil {
			t.Errorf("%s: no fault found", name)
		}
	}
}
