package firecracker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// callLimit bounds a call, and the time until a call is accepted that a booting guest has to be ready for. A guest
// boots in 5 s on an idle emulated host.
const callLimit = 10 * time.Minute

// TestCorpusStrictServer holds the strict server to the corpus.
func TestCorpusStrictServer(t *testing.T) {
	binary, kernel := fake(t)
	for _, s := range corpus() {
		t.Run(s.name, func(t *testing.T) { newProcess(t, binary, kernel).judge(s, true) })
	}
}

// TestCorpusFirecracker holds that a real Firecracker judges as the strict server does.
func TestCorpusFirecracker(t *testing.T) {
	binary := realFirecracker(t)
	for _, s := range corpus() {
		t.Run(s.name, func(t *testing.T) {
			_, kernel := fake(t)
			if s.boots {
				needKVM(t)
				kernel = realKernel(t)
			}
			newProcess(t, binary, kernel).judge(s, false)
		})
	}
}

// process is one process that the corpus is sent to.
type process struct {
	*testing.T
	socket string
	fill   *strings.Replacer
}

func newProcess(t *testing.T, binary, kernel string) *process {
	t.Helper()
	dir, err := os.MkdirTemp("", "fc") // t.TempDir is too long for a unix socket
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	disk := filepath.Join(dir, "disk")
	must(t, os.WriteFile(disk, make([]byte, 1<<20), 0o600))
	p := &process{t, filepath.Join(dir, "api.sock"), strings.NewReplacer("{dir}", dir, "{kernel}", kernel, "{disk}", disk)}
	p.run(binary)
	return p
}

// run starts the process, kills it after the test, and waits until it listens.
func (p *process) run(binary string) {
	p.Helper()
	cmd := exec.Command(binary, "--api-sock", p.socket, "--id", "corpus-1")
	must(p, cmd.Start())
	p.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(callLimit); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("unix", p.socket); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			p.Fatalf("%s does not listen", binary)
		}
	}
}

// judge sends a sequence and compares the verdicts.
func (p *process) judge(s sequence, strict bool) {
	p.Helper()
	if s.root && os.Geteuid() != 0 {
		p.Skip("skipped: making a TAP needs root")
	}
	for _, st := range s.steps {
		want := st.want == accepted || st.want == stricter && !strict
		what := fmt.Sprintf("%s %s %.120s", st.method, st.path, st.body)
		got := p.call(st)
		for deadline := time.Now().Add(callLimit); s.boots && want && got.notYet() && time.Now().Before(deadline); got = p.call(st) {
			time.Sleep(50 * time.Millisecond)
		}
		if got.accepted != want {
			p.Errorf("%s: accepted %v, want %v (%s)", what, got.accepted, want, got.text)
		}
		got.check(p.T, what, st)
	}
}

// tooLong is less than the longest body of the corpus and no less than what Firecracker takes.
const tooLong = 51200

// outcome is what came back.
type outcome struct {
	accepted bool
	status   int // 0 when the connection ended instead
	text     string
}

// notYet recognizes Firecracker's answer to a call for a device that the guest's driver has not activated.
func (o outcome) notYet() bool {
	return strings.Contains(strings.ToLower(o.text), "not activ") || strings.Contains(o.text, "inactive")
}

func (o outcome) check(t *testing.T, what string, st step) {
	t.Helper()
	var answer map[string]any
	err := json.Unmarshal([]byte(o.text), &answer)
	// Firecracker's HTTP parser, before its API, refuses unknown methods and what is too long in words of its own.
	switch known := st.method != "POST" && o.status != 0 && len(st.body) < tooLong; {
	case !o.accepted && known && (o.status != http.StatusBadRequest || err != nil || answer["fault_message"] == nil):
		t.Errorf("%s: was refused with %d %q, want 400 and a fault_message", what, o.status, o.text)
	case o.accepted && st.method != "GET" && (o.status != http.StatusNoContent || o.text != ""):
		t.Errorf("%s: was accepted with %d %q, want 204 and nothing", what, o.status, o.text)
	}
	for _, key := range st.keys {
		if _, ok := answer[key]; !ok {
			t.Errorf("%s: the answer %q lacks %q", what, o.text, key)
		}
	}
}

func (p *process) call(st step) outcome {
	p.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.socket)
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	client := http.Client{Transport: transport, Timeout: callLimit}
	var body io.Reader
	if st.body != "" {
		body = bytes.NewReader([]byte(p.fill.Replace(st.body)))
	}
	req, err := http.NewRequestWithContext(p.Context(), st.method, "http://localhost"+st.path, body)
	must(p, err)
	resp, err := client.Do(req)
	if err != nil {
		return outcome{text: err.Error()} // what is too long is refused in the middle of it
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(p, err)
	return outcome{resp.StatusCode < 300, resp.StatusCode, string(text)}
}
