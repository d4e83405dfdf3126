package agent

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot/archive"
)

// FetchRequest is a sandbox that is in the object store.
type FetchRequest struct {
	ID      id.Sandbox
	Key     string // under which its snapshot is stored
	Network models.NetworkPolicy
}

// Fetch makes a sandbox, paused, of what was stored of it, on whatever host; Resume has it go on, with the address that it has here. Its memory may come later, when it has
// gone on: what is stored is needed until then. After an error nothing of it is
// left on the host, and what is stored is as it was. Of a sandbox that is here from that key already it returns that one; another one is a Conflict. A caller that
// goes away does not end it, a destroy does.
func (a *Agent) Fetch(ctx context.Context, req FetchRequest) (Sandbox, error) {
	if err := a.checkFetch(req); err != nil {
		return Sandbox{}, err
	}
	s, isNew, err := a.enter(record{Sandbox: req.ID, State: Fetching, Network: &req.Network})
	if err != nil {
		return Sandbox{}, err
	}
	if !isNew {
		there, released, err := a.awaitFetched(ctx, s, req.Key)
		if released {
			return a.Fetch(ctx, req)
		}
		return there, err
	}
	defer a.tasks.Done()
	defer a.golden.hurry()()
	defer s.release()
	a.publish(s)
	ctx, cancel := outlive(ctx, archiveLimit)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	if err := a.fetch(ctx, s, req.Key); err != nil {
		err = a.explainChange(s, err, "fetched from the object store", "it is hibernated, as it was")
		a.log.Warn("sandbox could not be fetched", "sandbox_id", s.id, "key", req.Key, "error", err)
		undo, done := undoContext(ctx)
		defer done()
		if left := a.dismantle(undo, s); left != nil {
			a.log.Error("half-fetched sandbox could not be removed; the next start of the agent tries again", "sandbox_id", s.id, "error", left)
		}
		return Sandbox{}, err
	}
	return s.view(), nil
}

func (a *Agent) checkFetch(req FetchRequest) error {
	if _, err := a.Archive(); err != nil {
		return err
	}
	if _, err := id.ParseSandbox(string(req.ID)); err != nil {
		return models.Errorf(models.Invalid, "%v", err)
	}
	return models.CheckNetwork(req.Network, anything)
}

// awaitFetched answers for a sandbox that is here, or on its way, unless it has been released meanwhile: then nothing of it is here.
func (a *Agent) awaitFetched(ctx context.Context, s *sandbox, key string) (there Sandbox, released bool, err error) {
	if err := s.acquire(ctx); err != nil {
		return Sandbox{}, false, err
	}
	defer s.release()
	v, rec := s.view(), s.update(func(*record) {})
	now, err := a.find(s.id)
	if now != s && s.ctx.Err() == nil {
		return Sandbox{}, true, nil
	}
	if err != nil || !v.State.lives() || rec.Stored == nil || rec.Stored.Snapshot != rec.Snapshot || rec.Stored.Archive.Key != key {
		return Sandbox{}, false, models.Errorf(models.Conflict, "sandbox %s is %s here, and not what is stored as %s", s.id, v.State, key)
	}
	return v, false, nil
}

// fetch is the story of a sandbox's way back. Until the last record an agent that is killed leaves what the next one removes.
func (a *Agent) fetch(ctx context.Context, s *sandbox, key string) error {
	from, err := a.lookUp(ctx, s, key)
	if err != nil {
		return err
	}
	if err := a.prepare(ctx, s, &stopwatch{}); err != nil {
		return err
	}
	store, err := a.snapshots(s)
	if err != nil {
		return err
	}
	fetch := a.cfg.Archive.Fetch
	if a.comesLater() {
		fetch = a.cfg.Archive.FetchLater
	}
	if _, err := fetch(ctx, key, store, from); err != nil {
		return err
	}
	if _, err := a.attach(ctx, s); err != nil {
		return err
	}
	if err := s.ctx.Err(); err != nil { // a destroy has come
		return err
	}
	rec := s.update(func(r *record) { r.State = Paused })
	if err := rec.write(a.dir(s.id)); err != nil {
		return err
	}
	a.publish(s)
	a.log.Info("sandbox fetched from the object store", "sandbox_id", s.id, "key", key)
	return nil
}

// lookUp learns from the manifest what the sandbox is, and refuses what this host could not have go on.
func (a *Agent) lookUp(ctx context.Context, s *sandbox, key string) (archive.Origin, error) {
	m, err := a.cfg.Archive.Manifest(ctx, key)
	if err != nil && models.CodeOf(err) == models.NotFound {
		err = models.Errorf(models.Precondition, "what was stored of the sandbox (%s) is missing from the object store", key).WithCause(err)
	}
	if err != nil {
		return archive.Origin{}, err
	}
	n, known := pauseOf(m)
	if !known || m.Sandbox != string(s.id) || m.Token == "" {
		return archive.Origin{}, models.Errorf(models.Precondition, "what is stored as %s is not the sandbox %s", key, s.id)
	}
	size := models.Size{VCPUs: m.Machine.VCPUs, MemoryMiB: m.Machine.MemoryMiB, DiskMiB: int(m.Files[snapshot.RootfsFile].Size >> 20)}
	if why := a.cfg.Driver.Info().NoRestore; why != "" {
		return archive.Origin{}, models.Errorf(models.Precondition, "the sandbox could not be resumed on this host: %s", why)
	}
	if err := m.Machine.CheckRestore(a.machineOf(size)); err != nil {
		return archive.Origin{}, err
	}
	rec := s.update(func(r *record) {
		r.Template, r.Digest, r.Size, r.Kernel, r.Envd, r.Token = m.Template.Name, m.Template.Digest, size, m.Kernel, m.Envd, m.Token
		r.Pauses, r.Snapshot = n, m.ID
		r.Stored = &stored{Snapshot: m.ID, CreatedAt: m.CreatedAt, Archive: archiveOf(key, m, 0)}
	})
	from := a.originOf(rec)
	from.Parent = nil
	return from, nil
}

// pauseName is the name of a sandbox's n-th pause.
func pauseName(sb id.Sandbox, n int) string { return fmt.Sprintf("%s-pause-%d", sb, n) }

// pauseOf returns which pause of its sandbox a snapshot is of, false where it is of none.
func pauseOf(m snapshot.Manifest) (n int, known bool) {
	number, found := strings.CutPrefix(m.ID, m.Sandbox+"-pause-")
	n, err := strconv.Atoi(number)
	return n, found && err == nil && n > 0 && m.Kind == snapshot.Pause
}
