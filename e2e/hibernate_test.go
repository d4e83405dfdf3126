package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3/s3test"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// contents makes a file on the disk and one in memory, and sums print what is in them.
const (
	contents = `head -c 3000000 /dev/urandom > blob; head -c 8000000 /dev/urandom > /dev/shm/blob`
	sums     = `sha256sum blob /dev/shm/blob; hostname`
)

// TestHibernate is the life of a sandbox that sleeps in an S3 server: its host keeps nothing of it, and all of it goes on, with the first request. Whoever is killed meanwhile, and whatever
// is wrong with the server, it is whole afterwards, and the API says where.
func TestHibernate(t *testing.T) {
	h := newSleeper(t)
	p := h.platform
	p.shell(h.id, contents)
	p.shell(h.id, counting)
	h.sums = p.shell(h.id, sums)

	h.hibernate()
	first := h.get().Archive.SentBytes
	h.goesOn() // the first request wakes it
	h.hibernate()
	if second := h.get().Archive.SentBytes; second >= first {
		t.Errorf("%d bytes were sent for it, and %d when it had changed little", first, second)
	}
	h.goesOn()

	t.Run("agent killed while it stores", h.agentKilledStoring)
	t.Run("control plane killed while it stores", h.controlPlaneKilledStoring)
	t.Run("agent killed while it fetches", h.agentKilledFetching)
	t.Run("control plane killed while it fetches", h.controlPlaneKilledFetching)
	t.Run("server gone", h.serverGone)
	t.Run("server damaged", h.serverDamaged)

	h.hibernate()
	before := h.stored()
	p.destroy(h.id)
	if after := h.stored(); len(after) != len(before)-1 { // those of earlier sleeps go when the store is tidied
		t.Errorf("destroyed while it is hibernated as one of %v it leaves %v", before, after)
	}
	if left := p.leftovers(); left != "" {
		t.Errorf("and on its host:\n%s", left)
	}
}

// newSleeper brings up a platform with an S3 server, and a sandbox.
func newSleeper(t *testing.T) *sleeper {
	server := s3test.ForTest(t)
	w := &way{t: t, to: server.Options().Endpoint}
	o := server.Options()
	credentials := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(credentials, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", o.AccessKey, o.SecretKey), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, w.open, with("WRENN_OBJECTS", "s3://"+o.Bucket+"/e2e"), with("WRENN_S3_CREDENTIALS", credentials))
	return &sleeper{platform: p, server: server, way: w, id: p.create("minimal").ID}
}

// stored is what the object store has of it.
func (h *sleeper) stored() []string {
	all, err := filepath.Glob(filepath.Join(h.server.Folder(), "e2e/manifests", h.id+"-pause-*"))
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// sleeper is a sandbox that is hibernated again and again.
type sleeper struct {
	*platform
	server *s3test.Server
	way    *way
	id     string
	sums   string // of what is in it
	beats  int
}

func (h *sleeper) get() *wrenn.Sandbox {
	h.t.Helper()
	sb, err := h.client.GetSandbox(h.context(), h.id)
	if err != nil {
		h.t.Fatal(err)
	}
	return sb
}

// hibernate does so, and looks that nothing is left on the host.
func (h *sleeper) hibernate() {
	h.t.Helper()
	h.beats = h.beat(h.id)
	sb, err := h.client.HibernateSandbox(h.context(), h.id)
	if err != nil || sb.State != wrenn.Hibernated || sb.HostID != "" {
		h.t.Fatalf("hibernate: %+v, %v", sb, err)
	}
	h.onNoHost()
}

func (h *sleeper) onNoHost() {
	h.t.Helper()
	if left := append(append(h.found("sandboxes/sb-*"), h.processes()...), h.devices()...); len(left) > 0 {
		h.t.Errorf("the host of a hibernated sandbox has %v", left)
	}
}

// goesOn fails the test unless all of it is as it was, and goes on.
func (h *sleeper) goesOn() {
	h.t.Helper()
	since := time.Now()
	if got := h.shell(h.id, sums); got != h.sums {
		h.t.Errorf("it holds\n%s, and it held\n%s", got, h.sums)
	}
	h.platform.goesOn(h.id, h.beats, since)
}

// is waits until the API says that it is in one of these states.
func (h *sleeper) is(states ...wrenn.State) *wrenn.Sandbox {
	h.t.Helper()
	var sb *wrenn.Sandbox
	h.eventually(fmt.Sprintf("it is %s", states), func(ctx context.Context) (err error) {
		if sb, err = h.client.GetSandbox(ctx, h.id); err != nil {
			return err
		}
		for _, state := range states {
			if sb.State == state {
				return nil
			}
		}
		return fmt.Errorf("it is %s: %s", sb.State, sb.StateReason)
	})
	return sb
}

// during has do called while op is held up on its way to the server, which it is let go on afterwards, and returns what came of op.
func (h *sleeper) during(op func(context.Context, string) (*wrenn.Sandbox, error), state wrenn.State, do func()) error {
	h.t.Helper()
	release, held := h.way.hold()
	ended := make(chan error, 1)
	go func() {
		_, err := op(wrenn.WithIdempotencyKey(h.context(), ""), h.id) // the first answer is looked at, not that to a repetition
		ended <- err
	}()
	h.is(state)
	h.eventually("its host is at it", func(context.Context) error {
		if held() == 0 {
			return fmt.Errorf("nothing was sent")
		}
		return nil
	})
	do()
	release()
	return <-ended
}

func (h *sleeper) agentKilledStoring(t *testing.T) {
	h.paused()
	err := h.during(h.client.HibernateSandbox, wrenn.Hibernating, h.killAgent)
	h.waitReady()
	if sb := h.is(wrenn.Paused); wrenn.CodeOf(err) != wrenn.Unavailable || sb.StateReason == "" {
		t.Errorf("hibernate: %v; it is %+v", err, sb)
	}
	h.goesOn()
}

func (h *sleeper) controlPlaneKilledStoring(t *testing.T) {
	h.paused()
	if err := h.during(h.client.HibernateSandbox, wrenn.Hibernating, h.killControlPlane); err == nil {
		t.Error("a control plane that was killed has answered")
	}
	h.startControlPlane()
	h.is(wrenn.Hibernated)
	h.eventually("its host holds nothing of it", func(context.Context) error {
		if left := h.found("sandboxes/sb-*"); len(left) > 0 {
			return fmt.Errorf("there is %v", left)
		}
		return nil
	})
	h.onNoHost()
	h.goesOn()
}

func (h *sleeper) agentKilledFetching(t *testing.T) {
	h.hibernate()
	err := h.during(h.client.ResumeSandbox, wrenn.Resuming, h.killAgent)
	h.waitReady()
	if sb := h.is(wrenn.Hibernated); wrenn.CodeOf(err) != wrenn.Unavailable || sb.StateReason == "" {
		t.Errorf("resume: %v; it is %+v", err, sb)
	}
	h.onNoHost()
	h.goesOn()
}

func (h *sleeper) controlPlaneKilledFetching(t *testing.T) {
	h.hibernate()
	if err := h.during(h.client.ResumeSandbox, wrenn.Resuming, h.killControlPlane); err == nil {
		t.Error("a control plane that was killed has answered")
	}
	h.startControlPlane()
	h.is(wrenn.Paused, wrenn.Running)
	h.goesOn()
}

func (h *sleeper) serverGone(t *testing.T) {
	h.beats = h.beat(h.id)
	h.server.Kill()
	if _, err := h.client.HibernateSandbox(h.context(), h.id); wrenn.CodeOf(err) != wrenn.Unavailable {
		t.Errorf("hibernate: %v", err)
	}
	if sb := h.get(); sb.State != wrenn.Running {
		t.Errorf("it is %+v", sb)
	}
	h.back()
	h.goesOn()
	h.hibernate()
	h.server.Kill()
	if _, err := h.client.ResumeSandbox(h.context(), h.id); wrenn.CodeOf(err) != wrenn.Unavailable {
		t.Errorf("resume: %v", err)
	}
	if sb := h.get(); sb.State != wrenn.Hibernated || !strings.Contains(sb.StateReason, "object store") {
		t.Errorf("it is %+v", sb)
	}
	h.onNoHost()
	h.back()
	h.goesOn()
}

func (h *sleeper) back() {
	h.t.Helper()
	if err := h.server.Restart(); err != nil {
		h.t.Fatal(err)
	}
}

func (h *sleeper) serverDamaged(t *testing.T) {
	h.hibernate()
	for _, kept := range h.found("cache/chunks/*") {
		if err := os.Remove(kept); err != nil {
			t.Fatal(err)
		}
	}
	chunks, err := filepath.Glob(filepath.Join(h.server.Folder(), "e2e/chunks/*/*"))
	if err != nil || len(chunks) == 0 {
		t.Fatalf("no chunks: %v", err)
	}
	cut := func(path string) func() {
		text, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, text[:len(text)/2], 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() { _ = os.WriteFile(path, text, 0o600) }
	}
	var mend []func()
	for _, path := range chunks {
		mend = append(mend, cut(path))
	}
	if _, err := h.client.ResumeSandbox(h.context(), h.id); wrenn.CodeOf(err) != wrenn.Precondition || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("resume: %v", err)
	}
	if sb := h.get(); sb.State != wrenn.Hibernated || !strings.Contains(sb.StateReason, "is damaged") {
		t.Errorf("it is %+v", sb)
	}
	h.onNoHost()
	for _, f := range mend {
		f()
	}
	h.goesOn()
}

func (h *sleeper) paused() {
	h.t.Helper()
	h.beats = h.beat(h.id)
	h.sleep(h.id)
}

func (h *sleeper) killAgent() {
	h.agent.stop(syscall.SIGKILL)
	h.startAgent()
}

func (h *sleeper) killControlPlane() { h.control.stop(syscall.SIGKILL) }

func (h *sleeper) startControlPlane() {
	h.control = h.spawn("control-plane", "serve")
	h.waitReady()
}

// way leads from the namespace of the agent to a server on the loopback of the test, and can hold up what goes there.
type way struct {
	t  *testing.T
	to string

	mu      sync.Mutex // guards what follows
	gate    chan struct{}
	waiting int
}

// open is an option of start: the way is open as long as the platform.
func (w *way) open(env map[string]string) {
	var ln net.Listener
	err := netns.Do(env["WRENN_NETNS"], func() (err error) {
		ln, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = ln.Close() })
	env["WRENN_S3_ENDPOINT"] = "http://" + ln.Addr().String()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go w.carry(conn)
		}
	}()
}

func (w *way) carry(conn net.Conn) {
	defer conn.Close()
	on, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", w.to)
	if err != nil {
		return
	}
	defer on.Close()
	go func() {
		_, _ = io.Copy(conn, on)
		_ = conn.Close() // what the agent still sends nobody reads
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		w.pass()
		if _, err := on.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// pass returns when nothing is held up.
func (w *way) pass() {
	w.mu.Lock()
	gate := w.gate
	if gate != nil {
		w.waiting++
	}
	w.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

// hold holds up all that is sent, until release is called. held tells how much waits.
func (w *way) hold() (release func(), held func() int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gate, w.waiting = make(chan struct{}), 0
	release = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		close(w.gate)
		w.gate = nil
	}
	return release, func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.waiting
	}
}
