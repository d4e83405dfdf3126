package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot/archive"
)

// archiveLimit bounds a Store or a Fetch whose caller set no deadline: a large memory takes minutes to and from a distant store.
const archiveLimit = 15 * time.Minute

// stored is a snapshot of a sandbox that is in the object store.
type stored struct {
	Snapshot  string         `json:"snapshot"`
	CreatedAt time.Time      `json:"created_at"`
	Archive   models.Archive `json:"archive"`
}

// archived tells where the snapshot is stored that the sandbox sleeps in, if it is.
func (r record) archived() *models.Archive {
	if r.State != Paused || r.Stored == nil || r.Stored.Snapshot != r.Snapshot {
		return nil
	}
	return &r.Stored.Archive
}

// Archive returns the object store, or a Precondition error where this host has none.
func (a *Agent) Archive() (*archive.Archive, error) {
	if a.cfg.Archive == nil {
		return nil, models.Errorf(models.Precondition, "sandboxes cannot be hibernated here: their host has no object store").
			WithHint("the operator names one with WRENN_OBJECTS of the host agent")
	}
	return a.cfg.Archive, nil
}

// Store puts the snapshot of a paused sandbox into the object store. Nothing of it is removed here: it is paused as before, and says where it is stored. What is there
// already is not sent again, be it from an earlier sleep or from a Store that broke off. A Resume or a Destroy ends it; a caller that goes away does not.
func (a *Agent) Store(ctx context.Context, sb id.Sandbox) (Sandbox, error) {
	if _, err := a.Archive(); err != nil {
		return Sandbox{}, err
	}
	return a.change(ctx, sb, transition{from: Paused, to: Storing, do: a.store, limit: archiveLimit})
}

// store is the story of a hibernation here. An agent that is killed in it leaves what it has sent, and a record of a paused sandbox.
func (a *Agent) store(ctx context.Context, s *sandbox) error {
	ctx, done, err := s.beginStoring(ctx)
	if err != nil {
		return err
	}
	defer done()
	s.update(func(r *record) { r.State, r.Reason = Storing, "" })
	a.publish(s)
	up, err := a.upload(ctx, s)
	if err != nil {
		err = a.explainStore(s, err)
		s.update(func(r *record) { r.State, r.Reason = Paused, models.AsError(err).Message })
		a.publish(s)
		a.log.Warn("sandbox could not be stored; it is paused as it was", "sandbox_id", s.id, "error", err)
		return err
	}
	rec := s.update(func(r *record) { r.State, r.Stored = Paused, up })
	if err := rec.write(a.dir(s.id)); err != nil { // perhaps the disk is full, which its release mends
		a.log.Warn("it could not be recorded that a sandbox is stored", "sandbox_id", s.id, "error", err)
	}
	a.publish(s)
	a.log.Info("sandbox stored", "sandbox_id", s.id, "key", up.Archive.Key, "sent_bytes", up.Archive.SentBytes)
	return nil
}

// upload stores the snapshot that the sandbox sleeps in.
func (a *Agent) upload(ctx context.Context, s *sandbox) (*stored, error) {
	store, err := a.snapshots(s)
	if err != nil {
		return nil, err
	}
	rec := s.update(func(*record) {})
	from, err := store.Snapshot(rec.Snapshot)
	if err != nil {
		return nil, err
	}
	if later, err := from.Later(); err != nil || later != "" {
		return a.storedStill(ctx, rec, later, err)
	}
	up, err := a.cfg.Archive.Upload(ctx, from, a.originOf(rec))
	if err != nil {
		return nil, err
	}
	return &stored{Snapshot: from.ID, CreatedAt: from.CreatedAt, Archive: archiveOf(up.Key, from.Manifest, up.SentBytes)}, nil
}

// storedStill is upload for a sandbox that has not been fetched as a whole: it is what is stored.
func (a *Agent) storedStill(ctx context.Context, rec record, key string, err error) (*stored, error) {
	if err == nil {
		_, err = a.cfg.Archive.Manifest(ctx, key)
	}
	if err != nil {
		return nil, err
	}
	return rec.Stored, nil
}

// originOf is what a sandbox's snapshot has in common with what is here or stored already: the disk of its template, and what of it was stored before.
func (a *Agent) originOf(rec record) archive.Origin {
	var from archive.Origin
	if tmpl, err := a.cfg.Images.Version(rec.Template, rec.Digest); err == nil { // else all of the disk is stored
		from.Template = tmpl.Rootfs
	}
	if rec.Stored != nil {
		from.Parent = &snapshot.Snapshot{Manifest: snapshot.Manifest{ID: rec.Stored.Snapshot, CreatedAt: rec.Stored.CreatedAt}}
	}
	return from
}

func archiveOf(key string, m snapshot.Manifest, sent int64) models.Archive {
	return models.Archive{
		Key: key, TemplateDigest: m.Template.Digest, SentBytes: sent,
		Driver: m.Machine.Driver, DriverVersion: m.Machine.Version, Accelerator: m.Machine.Accelerator,
	}
}

func (a *Agent) explainStore(s *sandbox, err error) error {
	if s.wanted() {
		return models.Errorf(models.Conflict, "sandbox %s was resumed while it was being hibernated", s.id).WithCause(err)
	}
	return a.explainChange(s, err, "hibernated", "it is paused, as it was")
}

// beginStoring returns a context that ends when somebody wants the sandbox to go on, or a Conflict where somebody does already. done is to be called at the end.
func (s *sandbox) beginStoring(ctx context.Context) (storing context.Context, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wakers > 0 {
		return nil, nil, models.Errorf(models.Conflict, "sandbox %s is being resumed", s.id)
	}
	storing, s.storing = context.WithCancel(ctx)
	return storing, s.endStoring, nil
}

func (s *sandbox) endStoring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.storing()
	s.storing = nil
}

// hurry ends a storing under way and keeps others from beginning, until the function that it returns is called.
func (s *sandbox) hurry() func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakers++
	if s.storing != nil {
		s.storing()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wakers--
	}
}

// wanted tells whether somebody wants the sandbox to go on.
func (s *sandbox) wanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wakers > 0
}

// Release frees all that the host holds of a paused sandbox that is stored under key. It is the caller's to know that nobody needs it here. One that
// is not here is no error; one that is here as something else is a Conflict, and stays.
func (a *Agent) Release(ctx context.Context, sb id.Sandbox, key string) error {
	s, err := a.find(sb)
	if err != nil {
		return nil
	}
	if err := a.begin(); err != nil {
		return err
	}
	defer a.tasks.Done()
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	if _, err := a.find(sb); err != nil {
		return nil
	}
	if v := s.view(); v.Archive == nil || v.Archive.Key != key {
		return models.Errorf(models.Conflict, "sandbox %s is %s here, and not what is stored as %s", sb, v.State, key)
	}
	undo, done := undoContext(ctx)
	defer done()
	rec := s.update(func(r *record) { r.State = Stopping })
	if err := rec.write(a.dir(sb)); err != nil {
		a.log.Warn("could not record that a sandbox is being released", "sandbox_id", sb, "error", err)
	}
	if err := a.dismantle(undo, s); err != nil {
		return fmt.Errorf("release %s: %w", sb, err)
	}
	a.log.Info("sandbox released to the object store", "sandbox_id", sb, "key", key)
	return nil
}
