package controller

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

func TestCreateAndDestroy(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.create(c)
	if sb.State != models.Running || sb.Size.DiskMiB != 512 || sb.StartedAt.IsZero() || sb.Host == "" {
		t.Errorf("created %+v", sb)
	}
	if first, last := sb.Steps[0].Name, sb.Steps[len(sb.Steps)-1].Name; first != stepPlace || last != stepHostCall || len(sb.Steps) != 3 {
		t.Errorf("steps %+v", sb.Steps)
	}
	for range 2 { // the second is the same
		gone, err := c.Destroy(t.Context(), r.request(), sb.ID)
		if err != nil || gone.State != models.Stopped || gone.Generation != 5 {
			t.Errorf("destroyed: %+v, %v", gone, err)
		}
	}
	r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Stopping, models.Stopped)
	r.holds(0)
	if _, destroys, _ := r.sim.Counts(); destroys != 1 {
		t.Errorf("the host was asked to destroy %d times", destroys)
	}
	audit, err := r.store.AuditLog(t.Context(), r.by.Account, 10)
	if err != nil || len(audit) != 4 {
		t.Errorf("audit %+v, %v; want accepted and ok of create and of destroy", audit, err)
	}
}

func TestRefusedCreateLeavesNothing(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	for code, req := range map[models.Code]Request{
		models.NotFound:  {Template: "windows"},
		models.Invalid:   {Template: "minimal", Size: models.Size{DiskMiB: 1}},
		models.Exhausted: {Template: "minimal", Size: models.Size{VCPUs: 32, MemoryMiB: 65536, DiskMiB: 1 << 20}},
	} {
		if code == models.Exhausted {
			r.sim.Describe(func(i *pb.GetHostInfoResponse) { i.Vcpus = 1 })
			c.end()
			c = r.start(r.store, Limits{}, Pace{})
		}
		if _, err := c.Create(t.Context(), r.request(), req); models.CodeOf(err) != code {
			t.Errorf("%+v: %v, want %s", req, err, code)
		}
	}
	if creates, _, _ := r.sim.Counts(); creates != 0 {
		t.Errorf("the host was asked %d times", creates)
	}
	if audit, _ := r.store.AuditLog(t.Context(), r.by.Account, 10); len(audit) != 0 {
		t.Errorf("audit: %+v", audit)
	}
}

// TestAgentsReasonReachesTheUser: code, message and hint of the agent, and the row says it too.
func TestAgentsReasonReachesTheUser(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	r.sim.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error {
		return models.Errorf(models.Exhausted, "no free network slot").WithHint("wait")
	}, nil)
	_, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"})
	e := models.AsError(err)
	sb := r.only()
	if e.Code != models.Exhausted || !strings.Contains(e.Message, "no free network slot") || !strings.Contains(e.Message, string(sb.ID)) || e.Hint != "wait" {
		t.Errorf("error %+v", e)
	}
	if sb.State != models.Failed || sb.Reason != "no free network slot" {
		t.Errorf("row %s: %q", sb.State, sb.Reason)
	}
	if gone, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil || gone.State != models.Stopped {
		t.Errorf("destroy of a failed sandbox: %+v, %v", gone, err)
	}
}

// TestAgentDiesDuringCreate: the user and the row hear of it at once, and what the agent
// left behind is removed when it is back.
func TestAgentDiesDuringCreate(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, quick)
	r.sim.OnCreate(nil, func() { go r.sim.Kill(); time.Sleep(50 * time.Millisecond) }) // it had booted
	_, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"})
	if models.CodeOf(err) != models.Unavailable || !strings.Contains(err.Error(), "went away") {
		t.Errorf("create: %v", err)
	}
	sb := r.only()
	if sb.State != models.Failed || !strings.HasPrefix(sb.Reason, "lost: ") {
		t.Errorf("row %s: %q", sb.State, sb.Reason)
	}
	r.eventually("the agent's end is seen", func() bool { return !c.Fleet.Status()[0].Up })
	if _, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"}); models.CodeOf(err) != models.Unavailable {
		t.Errorf("create without an agent: %v", err)
	}
	r.sim.Kill() // waits for the end
	r.sim.OnCreate(nil, nil)
	r.sim.Restart()
	r.holds(0)
	r.path(sb.ID, models.Pending, models.Starting, models.Failed)
}

// TestClientGoesAway: the create goes on to its end.
func TestClientGoesAway(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	ctx, cancel := context.WithCancel(t.Context())
	proceed := make(chan struct{})
	r.sim.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error {
		cancel()
		<-proceed
		return nil
	}, nil)
	if _, err := c.Create(ctx, r.request(), Request{Template: "minimal"}); err == nil {
		t.Error("a caller who has gone was answered")
	}
	sb := r.only()
	if sb.State != models.Starting || sb.Deadline.IsZero() {
		t.Errorf("meanwhile %+v", sb)
	}
	close(proceed)
	r.becomes(sb.ID, models.Running)
	ctx, cancel = context.WithCancel(t.Context())
	r.sim.OnDestroy(func(context.Context, string) error { cancel(); return nil })
	if _, err := c.Destroy(ctx, r.request(), sb.ID); err != nil && models.CodeOf(err) != models.Unavailable {
		t.Error(err)
	}
	r.becomes(sb.ID, models.Stopped)
}

func TestCreateThatTakesTooLong(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{Create: 200 * time.Millisecond}, quick)
	r.sim.OnCreate(func(ctx context.Context, _ *pb.CreateSandboxRequest) error { <-ctx.Done(); return ctx.Err() }, nil)
	_, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"})
	if models.CodeOf(err) != models.Deadline || !strings.Contains(err.Error(), "200ms") {
		t.Errorf("create: %v", err)
	}
	if sb := r.only(); sb.State != models.Failed || !strings.Contains(sb.Reason, "200ms") {
		t.Errorf("row %s: %q", sb.State, sb.Reason)
	}
	r.holds(0)
}

// TestDestroyBeatsCreate: a destroy takes over while the host is still busy with the create.
func TestDestroyBeatsCreate(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	begun, proceed := make(chan struct{}), make(chan struct{})
	r.sim.OnCreate(func(context.Context, *pb.CreateSandboxRequest) error { close(begun); <-proceed; return nil }, nil)
	created := make(chan error, 1)
	go func() {
		_, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"})
		created <- err
	}()
	<-begun
	sb := r.only()
	if gone, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil || gone.State != models.Stopped {
		t.Errorf("destroy: %+v, %v", gone, err)
	}
	close(proceed)
	if err := <-created; models.CodeOf(err) != models.Conflict || !strings.Contains(err.Error(), "destroyed while") {
		t.Errorf("the create ended with %v", err)
	}
	r.path(sb.ID, models.Pending, models.Starting, models.Stopping, models.Stopped)
	r.holds(0)
}

// TestDestroyOvertakesCreateOnItsWay: the host hears of the destroy first, finds nothing, and
// makes the sandbox after all; nothing of it stays.
func TestDestroyOvertakesCreateOnItsWay(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	begun, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.sim.OnCreate(func(_ context.Context, req *pb.CreateSandboxRequest) error {
		r.sim.Lose(req.GetSandboxId(), true) // as if it had not arrived
		once.Do(func() { close(begun) })
		<-proceed
		r.sim.Put(req.GetSandboxId(), pb.SandboxState_SANDBOX_STATE_STARTING, "")
		return nil
	}, nil)
	created := make(chan error, 1)
	go func() {
		_, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"})
		created <- err
	}()
	<-begun
	if _, err := c.Destroy(t.Context(), r.request(), r.only().ID); err != nil {
		t.Error(err)
	}
	close(proceed)
	if err := <-created; models.CodeOf(err) != models.Conflict {
		t.Errorf("the create ended with %v", err)
	}
	r.holds(0)
}

func TestSimultaneousDestroys(t *testing.T) {
	r := newRig(t)
	a, b := r.start(r.store, Limits{}, quick), r.start(r.store, Limits{}, quick)
	for range 5 {
		sb := r.create(a)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				c := a
				if i%2 == 1 {
					c = b
				}
				if gone, err := c.Destroy(t.Context(), r.request(), sb.ID); err != nil || gone.State != models.Stopped {
					t.Errorf("%+v, %v", gone, err)
				}
			})
		}
		wg.Wait()
		r.path(sb.ID, models.Pending, models.Starting, models.Running, models.Stopping, models.Stopped)
	}
	r.holds(0)
}

// TestManyAtOnce creates and destroys in parallel on two replicas, with both reconcilers awake.
func TestManyAtOnce(t *testing.T) {
	r := newRig(t)
	replicas := []*replica{r.start(r.store, Limits{}, quick), r.start(r.store, Limits{}, quick)}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 4 {
				sb, err := replicas[i%2].Create(t.Context(), r.request(), Request{Template: "minimal"})
				if err != nil || sb.State != models.Running {
					t.Errorf("create: %+v, %v", sb, err)
					return
				}
				if gone, err := replicas[(i+1)%2].Destroy(t.Context(), r.request(), sb.ID); err != nil || gone.State != models.Stopped {
					t.Errorf("destroy: %+v, %v", gone, err)
				}
			}
		})
	}
	wg.Wait()
	r.holds(0)
}

// TestHostUnreachableDuringDestroy: the user is told, the row stays stopping, and the
// destroy is finished without anybody's doing when the host is back.
func TestHostUnreachableDuringDestroy(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{Destroy: 100 * time.Millisecond, Grace: time.Millisecond}, quick)
	sb := r.create(c)
	r.sim.Kill()
	_, err := c.Destroy(t.Context(), r.request(), sb.ID)
	e := models.AsError(err)
	if e.Code != models.Unavailable || !strings.Contains(e.Hint, "stopping") {
		t.Errorf("destroy: %+v", e)
	}
	r.becomes(sb.ID, models.Stopping)
	r.sim.Restart()
	r.becomes(sb.ID, models.Stopped)
	r.holds(0)
}

func TestAgentFailsToDestroy(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{Destroy: 50 * time.Millisecond, Grace: time.Millisecond}, quick)
	sb := r.create(c)
	var mu sync.Mutex
	failures := 0
	r.sim.OnDestroy(func(context.Context, string) error {
		mu.Lock()
		defer mu.Unlock()
		if failures++; failures <= 2 {
			return models.Errorf(models.Internal, "mount busy")
		}
		return nil
	})
	if _, err := c.Destroy(t.Context(), r.request(), sb.ID); models.CodeOf(err) != models.Internal || !strings.Contains(err.Error(), "mount busy") {
		t.Errorf("destroy: %v", err)
	}
	r.becomes(sb.ID, models.Stopped)
}

func TestForeignSandboxIsNotFound(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	sb := r.create(c)
	other, err := r.store.Account(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	foreign := By{Account: other, Key: "key-00000002", Request: "req-2"}
	if _, err := c.Destroy(t.Context(), foreign, sb.ID); models.CodeOf(err) != models.NotFound {
		t.Errorf("destroy: %v", err)
	}
	if _, err := c.Guest(t.Context(), other, sb.ID); models.CodeOf(err) != models.NotFound {
		t.Errorf("use: %v", err)
	}
	if _, err := c.Console(t.Context(), other, sb.ID); models.CodeOf(err) != models.NotFound {
		t.Errorf("console: %v", err)
	}
	r.becomes(sb.ID, models.Running)
}

// TestClose: no new operations; those under way are waited for, then cancelled, and the
// row says so.
func TestClose(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	begun := make(chan struct{})
	r.sim.OnCreate(func(ctx context.Context, _ *pb.CreateSandboxRequest) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}, nil)
	created := make(chan error, 1)
	go func() {
		_, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"})
		created <- err
	}()
	<-begun
	drain, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c.Close(drain)
	if err := <-created; models.CodeOf(err) != models.Unavailable {
		t.Errorf("the create ended with %v", err)
	}
	if sb := r.only(); sb.State != models.Failed || !strings.Contains(sb.Reason, "control plane was stopped") {
		t.Errorf("row %s: %q", sb.State, sb.Reason)
	}
	if _, err := c.Create(t.Context(), r.request(), Request{Template: "minimal"}); models.CodeOf(err) != models.Unavailable {
		t.Errorf("create after Close: %v", err)
	}
}

func TestPanicInAnOperation(t *testing.T) {
	r := newRig(t)
	c := r.start(r.store, Limits{}, Pace{})
	_, err := c.detached(t.Context(), lifecycle.CreateOp, func(context.Context) (models.Sandbox, error) { panic("secret") })
	if e := models.AsError(err); e.Code != models.Internal || strings.Contains(e.Message, "secret") {
		t.Errorf("a panic became %+v", e)
	}
	r.create(c)
}
