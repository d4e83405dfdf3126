package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// atOnce is how many requests a closed load has under way.
const atOnce = 64

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}

// created is what the measures need of a sandbox.
type created struct {
	ID      id.Sandbox `json:"id"`
	Timings []struct {
		Step string  `json:"step"`
		MS   float64 `json:"ms"`
	} `json:"timings"`
}

// call sends a request with a key, and fails unless it has the status.
func (s *stage) call(ctx context.Context, key, method, path string, body []byte, status int, headers ...string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Api-Key", key)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, status, answer)
	}
	return answer, err
}

// create makes the nth sandbox of a load.
func (s *stage) create(ctx context.Context, n int, headers ...string) (created, error) {
	var sb created
	answer, err := s.call(ctx, s.keys[n%len(s.keys)], http.MethodPost, "/v1/sandboxes", []byte(`{"template":"minimal"}`), http.StatusCreated, headers...)
	if err == nil {
		err = json.Unmarshal(answer, &sb)
	}
	return sb, err
}

// timed returns how many milliseconds do takes.
func timed(do func() error) (float64, error) {
	began := time.Now()
	err := do()
	return milliseconds(time.Since(began)), err
}
