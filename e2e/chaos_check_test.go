package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/lifetest/invariant"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// settleLimit is how long after the last fault everything must have come to rest: longer than the deadlines of all but what goes through the object store, which is here a folder.
const settleLimit = 3 * time.Minute

// settle waits until nothing is wrong, and returns what still is.
func (x *chaos) settle() []string {
	begun := time.Now()
	for {
		wrong := x.wrong(x.context())
		if len(wrong) == 0 || time.Since(begun) > settleLimit {
			x.journal.note("settled in %v", time.Since(begun).Round(time.Millisecond))
			x.longest = max(x.longest, time.Since(begun))
			return wrong
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// wrong tells what is not as it must be when nothing is under way.
func (x *chaos) wrong(ctx context.Context) (wrong []string) {
	rows, err := x.tables.Rows(ctx, "WHERE state <> 'stopped'")
	if err != nil {
		return []string{err.Error()}
	}
	of := map[string]invariant.Row{}
	for _, r := range rows {
		of[r.ID] = r
		if what := x.rowWrong(ctx, r); what != "" {
			wrong = append(wrong, what)
		}
	}
	for _, h := range x.hosts {
		wrong = append(wrong, h.wrong(rows, of)...)
		wrong = append(wrong, x.snapshotsWrong(ctx, h)...)
	}
	return append(wrong, x.tables.Pools(ctx)...)
}

// rowWrong looks at a row, and compares it with what the API says.
func (x *chaos) rowWrong(ctx context.Context, r invariant.Row) string {
	switch {
	case lifecycle.Passing(r.State):
		return fmt.Sprintf("%s is stuck in state %s on %s (%s)", r.ID, r.State, r.Host, r.Reason)
	case r.State == models.Failed && r.Reason == "":
		return fmt.Sprintf("%s has failed, and does not say why", r.ID)
	}
	for i, client := range x.clients {
		sb, err := client.GetSandbox(ctx, r.ID)
		if err != nil || sb.State != wrenn.State(r.State) || sb.HostID != r.Host || sb.StateReason != r.Reason {
			return fmt.Sprintf("replica %d says that %s is %+v (%v), and the table %+v", i, r.ID, sb, err, r)
		}
	}
	return ""
}

// wrong compares what a host has with the rows, both ways.
func (h *hostParts) wrong(rows []invariant.Row, of map[string]invariant.Row) (wrong []string) {
	holds, err := h.holds()
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	for sandbox, held := range holds {
		r := of[sandbox]
		if what := heldBy(r, held); r.Host != h.id || what != "" {
			wrong = append(wrong, fmt.Sprintf("%s is %q on %q in the table, and %s has of it %v %s", sandbox, r.State, r.Host, h.id, held, what))
		}
	}
	for _, r := range rows {
		if _, has := holds[r.ID]; !has && r.Host == h.id && (r.State == models.Running || r.State == models.Paused) {
			wrong = append(wrong, fmt.Sprintf("%s is %s, and %s has nothing of it", r.ID, r.State, h.id))
		}
	}
	for _, stray := range h.strays() {
		wrong = append(wrong, fmt.Sprintf("on %s there is %s", h.id, stray))
	}
	return wrong
}

// heldBy tells what of what its host has of a sandbox does not fit its state.
func heldBy(r invariant.Row, is held) string {
	want, some := held{folder: true}, false
	switch r.State {
	case models.Running:
		want.vmms, want.tap, some = 1, true, true
	case models.Paused:
		some = true
	case models.Failed:
		want.folder = is.folder // it may have failed before there was any, and its logs are kept
		some = true
	default:
	}
	if !some || is.vmms != want.vmms || is.folder != want.folder || want.tap && !is.tap {
		return fmt.Sprintf("(must be %v)", want)
	}
	return ""
}

// snapshotsWrong compares the named snapshots of a host with what it has.
func (x *chaos) snapshotsWrong(ctx context.Context, h *hostParts) (wrong []string) {
	rows, err := x.tables.Store.SnapshotsOfHost(ctx, id.Host(h.id))
	if err != nil {
		return []string{err.Error()}
	}
	var want []string
	for _, s := range rows {
		switch s.State {
		case models.SnapshotReady:
			want = append(want, string(s.ID))
		case models.SnapshotFailed:
		default:
			wrong = append(wrong, fmt.Sprintf("%s is stuck in state %s", s.ID, s.State))
		}
	}
	got := h.found("snapshots/snap-*")
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		wrong = append(wrong, fmt.Sprintf("%s has the snapshots %v, and the table %v", h.id, got, want))
	}
	return wrong
}

// disagrees tells where the API says something else than the answers did. What nobody was told of is destroyed.
func (x *chaos) disagrees() (wrong []string) {
	known, names, may := map[string]bool{}, map[string]string{}, 0
	for _, u := range x.users {
		may += u.unknown
		u.unknown = 0
		for _, b := range u.boxes {
			known[b.id] = true
			wrong = append(wrong, x.agree(b)...)
		}
	}
	extra := 0
	for sb, err := range x.clients[0].AllSandboxes(x.context(), wrenn.ListOptions{Limit: 200}) {
		if err != nil {
			return append(wrong, err.Error())
		}
		lives := sb.State != wrenn.Stopped && sb.State != wrenn.Failed
		if lives && sb.ParentID == "" {
			if other := names[sb.Name]; other != "" {
				wrong = append(wrong, fmt.Sprintf("%s and %s were made for one request, %s", other, sb.ID, sb.Name))
			}
			names[sb.Name] = sb.ID
		}
		if lives && !known[sb.ID] {
			extra++
		}
		if sb.State != wrenn.Stopped && !known[sb.ID] {
			x.journal.note("nobody was told of %s, named %q, a child of %q: %s", sb.ID, sb.Name, sb.ParentID, sb.State)
			x.destroyBox(newBox(sb.ID, noCargo()))
		}
	}
	if extra > may {
		wrong = append(wrong, fmt.Sprintf("of %d sandboxes nobody was told, and of %d it is not known whether they were made", extra, may))
	}
	return append(wrong, x.snapshotsDisagree()...)
}

// snapshotsDisagree is disagrees for named snapshots.
func (x *chaos) snapshotsDisagree() (wrong []string) {
	missing, may := map[string]bool{}, 0
	for _, u := range x.users {
		may += u.unsure
		u.unsure = 0
		for _, s := range u.kept {
			missing[s.id] = true
		}
	}
	extra := 0
	for s, err := range x.clients[0].AllSnapshots(x.context(), wrenn.SnapshotListOptions{Limit: 200}) {
		if err != nil {
			return append(wrong, err.Error())
		}
		if !missing[s.ID] {
			if s.State != wrenn.SnapshotFailed {
				extra++
			}
			x.journal.note("nobody has the snapshot %s of %s: %s", s.ID, s.SandboxID, s.State)
			x.deleteSnapshot(s.ID)
			continue
		}
		delete(missing, s.ID)
		if s.State != wrenn.SnapshotReady {
			wrong = append(wrong, fmt.Sprintf("the snapshot %s is %s (%s)", s.ID, s.State, s.StateReason))
		}
	}
	if len(missing) > 0 {
		wrong = append(wrong, fmt.Sprintf("the snapshots %v are gone", slices.Sorted(maps.Keys(missing))))
	}
	if extra > may {
		wrong = append(wrong, fmt.Sprintf("of %d snapshots nobody was told, and of %d it is not known whether they are there", extra, may))
	}
	return wrong
}

func (x *chaos) deleteSnapshot(id string) {
	x.t.Helper()
	x.calmly("delete snapshot "+id, func(ctx context.Context) error { return x.clients[0].DeleteSnapshot(ctx, id) })
}

// agree compares a sandbox with what may have become of it, and takes what it is for known.
func (x *chaos) agree(b *box) (wrong []string) {
	sb, err := x.clients[1].GetSandbox(x.context(), b.id)
	if err != nil {
		return []string{fmt.Sprintf("%s is not there: %v", b.id, err)}
	}
	if !x.allows(b, sb.State) {
		wrong = append(wrong, fmt.Sprintf("%s is %s (%s), and can be %v", b.id, sb.State, sb.StateReason, b.states()))
	}
	b.may, b.stormy, b.auto = map[wrenn.State]bool{sb.State: true}, false, false
	return wrong
}

// lookAtAll looks into all sandboxes, now that nothing is in the way, and leaves them asleep, or destroyed where they have failed. Those that run come first, so that there is room.
func (x *chaos) lookAtAll() {
	x.t.Helper()
	for _, asleep := range []bool{false, true} {
		for _, u := range x.users {
			for _, b := range u.boxes {
				if !b.may[wrenn.Stopped] && b.may[wrenn.Running] != asleep {
					x.lookAt(b)
				}
			}
		}
	}
	for _, u := range x.users {
		u.boxes = slices.DeleteFunc(u.boxes, func(b *box) bool { return b.may[wrenn.Stopped] })
	}
}

func (x *chaos) lookAt(b *box) {
	x.t.Helper()
	if b.may[wrenn.Failed] {
		x.destroyBox(b)
		return
	}
	var shown string
	x.calmly("look into "+b.id, func(ctx context.Context) error {
		result, err := x.clients[0].Exec(ctx, b.id, wrenn.ExecRequest{Shell: show})
		if err == nil {
			shown = result.Stdout
		}
		return err
	})
	for _, what := range b.holds.differs(shown) {
		x.fail([]string{b.id + ": " + what})
	}
	x.calmly("pause "+b.id, func(ctx context.Context) error {
		_, err := x.clients[1].PauseSandbox(ctx, b.id)
		return err
	})
	b.is(wrenn.Paused)
}

func (x *chaos) destroyBox(b *box) {
	x.t.Helper()
	x.calmly("destroy "+b.id, func(ctx context.Context) error {
		sb, err := x.clients[0].DestroySandbox(ctx, b.id)
		if err == nil && sb.State != wrenn.Stopped {
			err = fmt.Errorf("it is %s", sb.State)
		}
		return err
	})
	b.is(wrenn.Stopped)
}

// calmly does what must succeed at once where nothing is amiss.
func (x *chaos) calmly(what string, do func(context.Context) error) {
	x.t.Helper()
	err := do(x.context())
	x.journal.note("calmly: %s: %s", what, said(err))
	if err != nil {
		x.fail([]string{fmt.Sprintf("%s, while nothing is amiss: %s", what, strings.TrimSpace(said(err)))})
	}
}
