// Package api is a typed client of the API socket of one Firecracker process, for the calls that Wrenn uses.
//
// It speaks HTTP/1.1 over a unix socket, as published in Firecracker's src/firecracker/swagger/firecracker.yaml, and
// sends nothing that Firecracker 1.6 does not know. A refusal is a *Fault that carries Firecracker's own words.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// CallTimeout ends a call whose caller's context does not end it earlier. Calls take about a millisecond; only the start
// of a VM with much memory, on a host that emulates its processor, takes seconds.
const CallTimeout = 60 * time.Second

// SnapshotTimeout is CallTimeout for the calls that write or read a VM's memory.
const SnapshotTimeout = 10 * time.Minute

// maxResponse bounds an answer. The largest, GET /vm/config, is a few KiB.
const maxResponse = 1 << 20

// Fault is a call that Firecracker refused.
type Fault struct {
	Method, Path string
	Status       int
	Message      string // Firecracker's fault_message, or its body where that is not JSON
}

// Error returns the call and Firecracker's words.
func (f *Fault) Error() string {
	return fmt.Sprintf("firecracker refused %s %s with %d: %s", f.Method, f.Path, f.Status, f.Message)
}

// Client calls one Firecracker process. It may be used by several goroutines; Firecracker serves one call after another.
type Client struct {
	http *http.Client
}

// New returns a client of the API socket that dial connects to. It connects with the first call.
func New(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{http: &http.Client{
		// One connection, for Firecracker serves ten at most and a busy agent must leave room for an operator.
		Transport: &http.Transport{
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			MaxConnsPerHost: 1, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes the connection. A later call opens a new one.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// PutMachineConfig sets processors and memory. Before the boot only.
func (c *Client) PutMachineConfig(ctx context.Context, m MachineConfig) error {
	return c.call(ctx, http.MethodPut, "/machine-config", m, nil)
}

// PutBootSource sets the kernel and its arguments. Before the boot only.
func (c *Client) PutBootSource(ctx context.Context, b BootSource) error {
	return c.call(ctx, http.MethodPut, "/boot-source", b, nil)
}

// PutDrive adds a disk, or replaces the one with its id. Before the boot only.
func (c *Client) PutDrive(ctx context.Context, d Drive) error {
	return c.call(ctx, http.MethodPut, "/drives/"+d.DriveID, d, nil)
}

// PutNetworkInterface adds a network interface, or replaces the one with its id. Before the boot only.
func (c *Client) PutNetworkInterface(ctx context.Context, n NetworkInterface) error {
	return c.call(ctx, http.MethodPut, "/network-interfaces/"+n.IfaceID, n, nil)
}

// PutVsock adds the vsock device. Before the boot only.
func (c *Client) PutVsock(ctx context.Context, v Vsock) error {
	return c.call(ctx, http.MethodPut, "/vsock", v, nil)
}

// PutEntropy adds the virtio-rng device. Before the boot only.
func (c *Client) PutEntropy(ctx context.Context, e Entropy) error {
	return c.call(ctx, http.MethodPut, "/entropy", e, nil)
}

// PutBalloon adds the balloon, or replaces it. Before the boot only.
func (c *Client) PutBalloon(ctx context.Context, b Balloon) error {
	return c.call(ctx, http.MethodPut, "/balloon", b, nil)
}

// PatchBalloon sets the balloon's size. After the boot only.
func (c *Client) PatchBalloon(ctx context.Context, b BalloonUpdate) error {
	return c.call(ctx, http.MethodPatch, "/balloon", b, nil)
}

// BalloonStats returns what the guest last reported. After the boot only, and only where statistics were asked for.
func (c *Client) BalloonStats(ctx context.Context) (BalloonStats, error) {
	var s BalloonStats
	err := c.call(ctx, http.MethodGet, "/balloon/statistics", nil, &s)
	return s, err
}

// PutLogger sets where the log goes. Before the boot only.
func (c *Client) PutLogger(ctx context.Context, l Logger) error {
	return c.call(ctx, http.MethodPut, "/logger", l, nil)
}

// PutMetrics sets where metrics go. Before the boot only, and once.
func (c *Client) PutMetrics(ctx context.Context, m Metrics) error {
	return c.call(ctx, http.MethodPut, "/metrics", m, nil)
}

// Act carries out an action.
func (c *Client) Act(ctx context.Context, a ActionType) error {
	return c.call(ctx, http.MethodPut, "/actions", action{a}, nil)
}

// PatchVM pauses the microVM, or lets it go on. After the boot only.
func (c *Client) PatchVM(ctx context.Context, s VMStateName) error {
	return c.call(ctx, http.MethodPatch, "/vm", VMState{s}, nil)
}

// CreateSnapshot writes a paused microVM to two files. What a failed call leaves of them is undefined.
func (c *Client) CreateSnapshot(ctx context.Context, s SnapshotCreate) error {
	return c.callFor(ctx, SnapshotTimeout, http.MethodPut, "/snapshot/create", s, nil)
}

// LoadSnapshot makes the process what was written by CreateSnapshot. Before the boot only.
func (c *Client) LoadSnapshot(ctx context.Context, s SnapshotLoad) error {
	return c.callFor(ctx, SnapshotTimeout, http.MethodPut, "/snapshot/load", s, nil)
}

// Instance describes the process. Always allowed.
func (c *Client) Instance(ctx context.Context) (InstanceInfo, error) {
	var i InstanceInfo
	err := c.call(ctx, http.MethodGet, "/", nil, &i)
	return i, err
}

// Version returns Firecracker's version, such as "1.6.0". Always allowed.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v version
	err := c.call(ctx, http.MethodGet, "/version", nil, &v)
	return v.FirecrackerVersion, err
}

// call sends in, where it is not nil, and decodes the answer into out, where that is not nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	return c.callFor(ctx, CallTimeout, method, path, in, out)
}

func (c *Client) callFor(ctx context.Context, limit time.Duration, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := request(ctx, method, path, in)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("call firecracker: %w", err)
	}
	defer resp.Body.Close()
	body, err := readBounded(resp.Body)
	if err != nil {
		return fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	return decode(resp.StatusCode, body, &Fault{Method: method, Path: path}, out)
}

func request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

func readBounded(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxResponse+1))
	if err == nil && len(body) > maxResponse {
		err = fmt.Errorf("it is longer than %d bytes", maxResponse)
	}
	return body, err
}

// decode judges an answer: 204 without a body where nothing is asked for, else 200 with JSON.
func decode(status int, body []byte, f *Fault, out any) error {
	want := http.StatusOK
	if out == nil {
		want = http.StatusNoContent
	}
	if status != want {
		f.Status, f.Message = status, words(body)
		return f
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("decode the answer to %s %s: %w", f.Method, f.Path, err)
	}
	return nil
}

func words(body []byte) string {
	var f fault
	if err := json.Unmarshal(body, &f); err == nil && f.FaultMessage != "" {
		return f.FaultMessage
	}
	return strings.TrimSpace(string(body[:min(len(body), 1024)]))
}
