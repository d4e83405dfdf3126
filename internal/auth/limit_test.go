package auth

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devstack"
)

// stingy is a rate that gives nothing back while a test runs.
var stingy = map[string]Rate{"read": {PerSecond: 0.001, Burst: 5}}

// TestLocalLimit: a burst at once, then one each interval, and the whole burst again after its window.
func TestLocalLimit(t *testing.T) {
	rate := Rate{PerSecond: 10, Burst: 3}
	l := NewLimiter(nil, nil)
	now := time.Unix(1e9, 0)
	count := func() Decision {
		ahead, wait := l.count("k", rate, now)
		return decide(rate, ahead, wait)
	}
	for left := 2; left >= 0; left-- {
		if d := count(); !d.Allowed || d.Remaining != left || d.Reset != time.Duration(3-left)*100*time.Millisecond {
			t.Errorf("within the burst: %+v", d)
		}
	}
	for range 3 { // a refusal costs nothing
		if d := count(); d.Allowed || d.Remaining != 0 || d.Retry != 100*time.Millisecond {
			t.Errorf("beyond the burst: %+v", d)
		}
	}
	now = now.Add(99 * time.Millisecond)
	if d := count(); d.Allowed || d.Retry != time.Millisecond {
		t.Errorf("a moment too early: %+v", d)
	}
	now = now.Add(time.Millisecond)
	if d := count(); !d.Allowed {
		t.Errorf("after an interval: %+v", d)
	}
	now = now.Add(rate.Window())
	if d := count(); !d.Allowed || d.Remaining != 2 {
		t.Errorf("after the window: %+v", d)
	}
}

// private is a Redis server of the test's own.
type private struct {
	t      *testing.T
	socket string
	cmd    *exec.Cmd
}

func (p *private) start() {
	p.t.Helper()
	programs, err := devstack.FindBinaries()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(programs.Redis, "--port", "0", "--unixsocket", p.socket, "--save", "", "--dir", filepath.Dir(p.socket))
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *private) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	_ = p.cmd.Wait()
}

// TestLimitWithoutRedis: replicas count together in Redis; when it is killed each counts for itself, and when it is back they do so together again.
func TestLimitWithoutRedis(t *testing.T) {
	if _, err := devstack.FindBinaries(); err != nil {
		setUp(t) // says that they are missing
	}
	dir, err := os.MkdirTemp("", "limit-") // t.TempDir may be too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	server := &private{t: t, socket: filepath.Join(dir, "redis.sock")}
	server.start()
	t.Cleanup(func() { server.kill() })
	caches := []*Cache{openCache(t, "unix://"+server.socket), openCache(t, "unix://"+server.socket)}
	replicas := []*Limiter{NewLimiter(caches[0], stingy), NewLimiter(caches[1], stingy)}
	up := func() {
		t.Helper()
		for _, c := range caches {
			for end := time.Now().Add(time.Minute); c.Check(t.Context()) != nil; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("Redis is not used")
				}
			}
		}
	}
	allowed := func(name string) (n int) {
		for i := range 20 {
			if replicas[i%2].Allow(t.Context(), "key-00000001", name).Allowed {
				n++
			}
		}
		return n
	}
	up()
	if n := allowed("read"); n != 5 {
		t.Errorf("together they allow %d, want 5", n)
	}
	server.kill()
	if n := allowed("read"); n != 10 {
		t.Errorf("without Redis they allow %d, want 5 each", n)
	}
	server.start()
	up()
	if n := allowed("read"); n != 5 { // it has forgotten what was before
		t.Errorf("with Redis back they allow %d, want 5", n)
	}
}
