package lifetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"pgregory.net/rapid"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// operator is who makes keys, sets pools and drains hosts.
var operator = db.By{Actor: "operator", Operation: "req-0"}

// op is one thing that a user does, or that befalls the deployment.
type op struct {
	Kind    string
	Pick    int // which sandbox, snapshot or host
	Replica int
	Arg     int
}

// often is how often what is done, of all.
var often = map[string]int{
	"create": 14, "burst": 4, "orphan": 1, "destroy": 12, "pause": 10, "resume": 12, "hibernate": 6, "exec": 4, "fork": 5, "snapshot": 3, "from snapshot": 3, "metadata": 4, "policy": 4,
	"pool": 3, "VM dies": 2, "agent dies": 3, "drain": 1, "evict": 1, "undrain": 2, "redis is cut": 2, "postgres is cut": 3, "replica dies": 1,
}

var ops = rapid.Custom(func(t *rapid.T) op {
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(often)) { // the same for a seed
		for range often[kind] {
			kinds = append(kinds, kind)
		}
	}
	return op{
		Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Pick: rapid.IntRange(0, 1000).Draw(t, "pick"),
		Replica: rapid.IntRange(0, replicas-1).Draw(t, "replica"), Arg: rapid.IntRange(0, 300).Draw(t, "arg"),
	}
})

// made is what an answer says of a sandbox.
type made struct {
	ID    id.Sandbox   `json:"id"`
	State models.State `json:"state"`
}

// decode reads an answer, which must be of a form.
func decode[T any](l *lane, a answer) (v T) {
	if err := json.Unmarshal(a.body, &v); err != nil {
		l.fault("%v: %s", err, a.body)
	}
	return v
}

func path(sb *sandbox, rest string) string { return "/v1/sandboxes/" + string(sb.id) + rest }

func (l *lane) take(m made) {
	l.sandboxes = append(l.sandboxes, &sandbox{id: m.ID, may: map[models.State]bool{models.Running: true}, metadata: map[string]bool{"": true}})
}

func (l *lane) create(replica int, body string) {
	a := l.call(replica, http.MethodPost, "/v1/sandboxes", body)
	switch {
	case a.ok():
		m := decode[made](l, a)
		if m.State != models.Running {
			l.fault("a create is answered by a sandbox that is %s", m.State)
		}
		l.take(m)
	case a.unknown():
		l.unknown++
	}
}

// burst creates several at once, through all replicas.
func (l *lane) burst() {
	alone := make([]*lane, 2*replicas)
	var wg sync.WaitGroup
	for i := range alone {
		alone[i] = &lane{w: l.w, account: l.account, key: l.key}
		wg.Go(func() { alone[i].create(i, `{"template":"minimal"}`) })
	}
	wg.Wait()
	for _, one := range alone {
		l.sandboxes, l.unknown, l.wrong = append(l.sandboxes, one.sandboxes...), l.unknown+one.unknown, append(l.wrong, one.wrong...)
	}
}

// change asks for what brings a sandbox into a state, and where it fails may leave it in it or in others.
func change(verb string, to models.State, others ...models.State) func(*lane, *sandbox, op) {
	return func(l *lane, sb *sandbox, o op) {
		a := l.call(o.Replica, http.MethodPost, path(sb, "/"+verb), "")
		if a.ok() {
			if m := decode[made](l, a); m.State != to {
				l.fault("%s of %s is answered by %s", verb, sb.id, m.State)
			}
			sb.is(to)
			return
		}
		l.there(sb, o, a)
		sb.perhaps(a, append(others, to)...)
	}
}

// there checks that a sandbox is known: it is for good.
func (l *lane) there(sb *sandbox, o op, a answer) {
	if a.status == http.StatusNotFound {
		l.fault("%s: %s is not there: %s", o.Kind, sb.id, a.body)
	}
}

// exec runs a program, for which what sleeps wakes.
func (l *lane) exec(sb *sandbox, o op) {
	a := l.call(o.Replica, http.MethodPost, path(sb, "/exec"), `{"cmd":"true"}`)
	if a.ok() {
		sb.is(models.Running)
		return
	}
	l.there(sb, o, a)
	sb.perhaps(a, models.Running)
}

func (l *lane) fork(sb *sandbox, o op) {
	count := 1 + o.Arg%2
	a := l.call(o.Replica, http.MethodPost, path(sb, "/fork"), fmt.Sprintf(`{"count":%d}`, count))
	switch {
	case a.ok():
		children := decode[struct{ Items []made }](l, a).Items
		if len(children) != count {
			l.fault("%d children of %s, want %d", len(children), sb.id, count)
		}
		for _, child := range children {
			l.take(child)
			l.sandboxes[len(l.sandboxes)-1].metadata = sb.metadata
		}
	case a.unknown():
		l.unknown += count
	default:
		l.there(sb, o, a)
	}
}

func (l *lane) snapshot(sb *sandbox, o op) {
	a := l.call(o.Replica, http.MethodPost, path(sb, "/snapshots"), `{"name":"kept"}`)
	if a.ok() {
		l.snapshots = append(l.snapshots, decode[struct{ ID id.Snapshot }](l, a).ID)
	}
}

func (l *lane) destroy(sb *sandbox, o op) {
	a := l.call(o.Replica, http.MethodDelete, path(sb, ""), "")
	l.there(sb, o, a)
	if a.ok() {
		sb.is(models.Stopped)
		return
	}
	sb.perhaps(a, models.Stopped)
}

func (l *lane) setMetadata(sb *sandbox, o op) {
	value := fmt.Sprint(o.Arg)
	a := l.call(o.Replica, http.MethodPatch, path(sb, ""), fmt.Sprintf(`{"metadata":{"label":%q}}`, value))
	l.there(sb, o, a)
	switch {
	case a.ok():
		sb.metadata = map[string]bool{value: true}
	case a.unknown():
		sb.metadata = map[string]bool{"*": true} // it may come later than what is asked next
	}
}

// setPolicy changes a network policy; that the host has it in the end is looked at for all.
func (l *lane) setPolicy(sb *sandbox, o op) {
	l.there(sb, o, l.call(o.Replica, http.MethodPatch, path(sb, ""), fmt.Sprintf(`{"network":{"deny":["198.51.100.%d"]}}`, o.Arg%256)))
}

func (l *lane) killVM(sb *sandbox, _ op) {
	for _, h := range l.w.hosts {
		if h.State(string(sb.id)) == pb.SandboxState_SANDBOX_STATE_RUNNING {
			h.Put(string(sb.id), pb.SandboxState_SANDBOX_STATE_FAILED, "its VM is gone")
			sb.perhaps(answer{}, models.Failed)
		}
	}
}

// trouble befalls the deployment, for a while.
func (w *world) trouble(l *lane, o op) {
	ctx := w.t.Context()
	var err error
	switch o.Kind {
	case "agent dies":
		w.stopHost(o.Pick)
		w.later(o, func() { w.startHost(o.Pick) })
	case "orphan": // as after the restore of an old database
		w.hosts[o.Pick%hosts].Put(string(id.NewSandbox()), pb.SandboxState_SANDBOX_STATE_RUNNING, "")
	case "redis is cut":
		r := w.replica(o.Replica)
		r.redis.cut()
		w.later(o, r.redis.mend)
	case "postgres is cut":
		r := w.replica(o.Replica)
		r.postgres.cut()
		w.later(o, r.postgres.mend)
	case "replica dies":
		w.replace(o.Replica)
	case "drain", "evict":
		w.drained.Store(true)
		if o.Kind == "evict" {
			w.evicted.Store(true)
		}
		err = w.store.SetDraining(ctx, hostID(o.Pick%hosts), operator, true, o.Kind == "evict")
	case "undrain":
		err = w.store.SetDraining(ctx, hostID(o.Pick%hosts), operator, false, false)
	case "pool":
		most := int64(1 + o.Arg%(hosts*roomOfHost))
		err = w.store.SetPool(ctx, l.account, operator, db.PoolChange{Sandboxes: &most})
	default:
		l.fault("nothing is called %q", o.Kind)
	}
	if err != nil {
		l.fault("%s: %v", o.Kind, err)
	}
}

// later ends a fault.
func (w *world) later(o op, end func()) {
	w.faults.Go(func() {
		time.Sleep(time.Duration(o.Arg) * time.Millisecond)
		end()
	})
}
