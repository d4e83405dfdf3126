package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve answers every call on a unix socket with handler, and returns a client of it.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "api.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-served })
	c := New(dialer(path))
	t.Cleanup(c.Close)
	return c
}

func TestCallsAsSent(t *testing.T) {
	var got, body string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got, body = r.Method+" "+r.URL.Path, string(text)
		if r.ContentLength != int64(len(text)) || len(r.TransferEncoding) > 0 {
			t.Errorf("%s: Content-Length %d, encoding %v: Firecracker needs a length", got, r.ContentLength, r.TransferEncoding)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	for want, call := range map[string]func(context.Context) error{
		`PUT /machine-config {"vcpu_count":2,"mem_size_mib":256,"smt":false,"track_dirty_pages":false}`: func(ctx context.Context) error {
			return c.PutMachineConfig(ctx, MachineConfig{VCPUCount: 2, MemSizeMiB: 256})
		},
		`PUT /boot-source {"kernel_image_path":"/k","boot_args":"a b"}`: func(ctx context.Context) error {
			return c.PutBootSource(ctx, BootSource{KernelImagePath: "/k", BootArgs: "a b"})
		},
		`PUT /drives/r {"drive_id":"r","path_on_host":"/d","is_root_device":true,"is_read_only":false,"cache_type":"Unsafe"}`: func(ctx context.Context) error {
			return c.PutDrive(ctx, Drive{DriveID: "r", PathOnHost: "/d", IsRootDevice: true, CacheType: CacheUnsafe})
		},
		`PUT /network-interfaces/e {"iface_id":"e","host_dev_name":"t"}`: func(ctx context.Context) error {
			return c.PutNetworkInterface(ctx, NetworkInterface{IfaceID: "e", HostDevName: "t"})
		},
		`PUT /vsock {"guest_cid":3,"uds_path":"/v"}`: func(ctx context.Context) error {
			return c.PutVsock(ctx, Vsock{GuestCID: 3, UDSPath: "/v"})
		},
		`PUT /entropy {}`: func(ctx context.Context) error { return c.PutEntropy(ctx, Entropy{}) },
		`PUT /balloon {"amount_mib":1,"deflate_on_oom":true,"stats_polling_interval_s":0}`: func(ctx context.Context) error {
			return c.PutBalloon(ctx, Balloon{AmountMiB: 1, DeflateOnOOM: true})
		},
		`PATCH /balloon {"amount_mib":2}`: func(ctx context.Context) error { return c.PatchBalloon(ctx, BalloonUpdate{2}) },
		`PUT /logger {"log_path":"/l","level":"Warning","show_level":false}`: func(ctx context.Context) error {
			return c.PutLogger(ctx, Logger{LogPath: "/l", Level: LogWarning})
		},
		`PUT /metrics {"metrics_path":"/m"}`:           func(ctx context.Context) error { return c.PutMetrics(ctx, Metrics{"/m"}) },
		`PUT /actions {"action_type":"InstanceStart"}`: func(ctx context.Context) error { return c.Act(ctx, InstanceStart) },
	} {
		if err := call(t.Context()); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		if got+" "+body != want {
			t.Errorf("sent %s %s, want %s", got, body, want)
		}
	}
}

func TestAnswers(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answers := map[string]any{
			"/":                   InstanceInfo{AppName: "Firecracker", ID: "x", State: Running, VMMVersion: "1.6.0"},
			"/version":            version{"1.6.0"},
			"/balloon/statistics": map[string]any{"target_mib": 7, "actual_mib": 5, "free_memory": 1 << 40, "swap_in": nil},
		}
		_ = json.NewEncoder(w).Encode(answers[r.URL.Path])
	})
	info, err := c.Instance(t.Context())
	if err != nil || info.State != Running || info.ID != "x" {
		t.Errorf("Instance: %+v, %v", info, err)
	}
	if v, err := c.Version(t.Context()); err != nil || v != "1.6.0" {
		t.Errorf("Version: %q, %v", v, err)
	}
	stats, err := c.BalloonStats(t.Context())
	if err != nil || stats.TargetMiB != 7 || stats.ActualMiB != 5 || stats.FreeMemory != 1<<40 {
		t.Errorf("BalloonStats: %+v, %v", stats, err)
	}
}

func TestOddAnswers(t *testing.T) {
	long := strings.Repeat("x", maxResponse+1)
	for name, c := range map[string]struct {
		status      int
		body, words string
	}{
		"fault":                 {400, `{"fault_message":"no such drive"}`, "firecracker refused GET /version with 400: no such drive"},
		"fault that is no JSON": {400, " went wrong\n", "400: went wrong"},
		"fault of the parser":   {400, `{"error":"too large"}`, `400: {"error":"too large"}`},
		"redirect":              {302, "", "with 302"},
		"no content":            {204, "", "with 204"},
		"not JSON":              {200, "1.6.0", "decode the answer to GET /version"},
		"endless":               {200, long, "longer than 1048576 bytes"},
		"endless fault":         {400, long, "longer than 1048576 bytes"},
	} {
		client := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		_, err := client.Version(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", name, err, c.words)
		}
		var fault *Fault
		if errors.As(err, &fault) && fault.Status != c.status {
			t.Errorf("%s: %+v", name, fault)
		}
	}
}

// TestContextEndsCall holds that a process which does not answer holds nobody up.
func TestContextEndsCall(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	c := serve(t, func(http.ResponseWriter, *http.Request) { <-hang })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.PutEntropy(ctx, Entropy{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call that is not answered: %v", err)
	}
	if err := c.callFor(t.Context(), 50*time.Millisecond, http.MethodPut, "/entropy", Entropy{}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call without a deadline of its caller's: %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	err := New(dialer(filepath.Join(t.TempDir(), "api.sock"))).PutEntropy(t.Context(), Entropy{})
	var fault *Fault
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &fault) {
		t.Errorf("a call to nobody: %v", err)
	}
}

// FuzzAnswer: whatever a VMM says on its API socket, a call ends, with Firecracker's words within bounds.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n{\"firecracker_version\":\"1.17.0\"}"))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 24\r\n\r\n{\"fault_message\":\"no\"}  "))
	f.Add([]byte("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		c := New(nil)
		c.http.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				_, _ = theirs.Read(make([]byte, 4096))
				_, _ = theirs.Write(answer)
			}()
			return ours, nil
		}
		defer c.Close()
		for _, err := range []error{c.Act(t.Context(), FlushMetrics), func() error { _, err := c.Version(t.Context()); return err }()} {
			var fault *Fault
			if errors.As(err, &fault) && len(fault.Message) > maxResponse {
				t.Errorf("a fault of %d bytes", len(fault.Message))
			}
		}
	})
}

func dialer(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", path) }
}
