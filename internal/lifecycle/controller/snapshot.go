package controller

import (
	"cmp"
	"context"
	"errors"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
)

// Actions of the audit log.
const (
	auditKeep    = "snapshot.create"
	auditDiscard = "snapshot.delete"
)

// SnapshotStore is what a Controller needs of the database for snapshots.
type SnapshotStore interface {
	CreateSnapshot(ctx context.Context, n db.NewSnapshot, fit db.FitFunc) (models.Snapshot, error)
	ChangeSnapshot(ctx context.Context, c db.SnapshotChange) (models.Snapshot, error)
	RemoveSnapshot(ctx context.Context, c db.SnapshotChange) error
	Snapshot(ctx context.Context, account id.Account, n id.Snapshot) (models.Snapshot, error)
}

// CreateSnapshot keeps what a running or paused sandbox is now in a snapshot and returns it once it is on its host's disk. It takes room there: Exhausted when there is none. When
// it fails there is no snapshot. It goes on when ctx ends.
func (c *Controller) CreateSnapshot(ctx context.Context, by By, sb id.Sandbox, name string) (models.Snapshot, error) {
	return c.onSnapshot(ctx, keepOp, func(ctx context.Context) (models.Snapshot, error) { return c.keep(ctx, by, sb, name) })
}

func (c *Controller) onSnapshot(ctx context.Context, op lifecycle.Operation, do func(context.Context) (models.Snapshot, error)) (models.Snapshot, error) {
	var made models.Snapshot
	_, err := c.detached(ctx, op, func(ctx context.Context) (_ models.Sandbox, err error) {
		made, err = do(ctx)
		return models.Sandbox{}, err
	})
	if err != nil {
		return models.Snapshot{}, err // made may still be written to
	}
	return made, nil
}

func (c *Controller) keep(ctx context.Context, by By, sb id.Sandbox, name string) (models.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Limits.Create)
	defer cancel()
	if kept, err := c.keptBefore(ctx, by); err != nil || kept.ID != "" {
		return kept, err
	}
	row, err := c.still(ctx, by.Account, sb)
	if err != nil {
		return models.Snapshot{}, err
	}
	made, err := c.insertSnapshot(ctx, by, row, name)
	if errors.Is(err, db.ErrMoved) {
		return models.Snapshot{}, models.Errorf(models.Conflict, "another request has changed the sandbox %s meanwhile", sb).WithHint("look at it again, and decide anew")
	}
	if err != nil {
		return models.Snapshot{}, err
	}
	client, err := c.Fleet.Client(row.Host)
	if err != nil {
		return models.Snapshot{}, c.notKept(ctx, by, made, err)
	}
	kept, err := client.CreateSnapshot(ctx, row.ID, made.ID)
	if err != nil {
		return models.Snapshot{}, c.notKept(ctx, by, made, err)
	}
	return c.ready(ctx, by.db(), made.ID, kept.Bytes)
}

func (c *Controller) insertSnapshot(ctx context.Context, by By, row models.Sandbox, name string) (models.Snapshot, error) {
	up := c.Fleet.reachable()
	fit := func(hosts []*db.HostUse) error {
		return scheduler.Keep(views(hosts, up), row.Host, row.Size, c.Overcommit)
	}
	n := db.NewSnapshot{Account: by.Account, Sandbox: row.ID, Host: row.Host, Name: name, By: by.db(), Within: c.Limits.Create + writeLimit}
	for try := 1; ; try++ {
		n.ID = id.NewSnapshot()
		made, err := c.Store.CreateSnapshot(ctx, n, fit)
		if err == nil || errors.Is(err, db.ErrMoved) || models.CodeOf(err) != models.Conflict || try == draws {
			return made, err
		}
	}
}

// ready writes down that a host has made a snapshot.
func (c *Controller) ready(ctx context.Context, by db.By, n id.Snapshot, bytes int64) (models.Snapshot, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
	defer cancel()
	// From ready too: the reconciler may have seen it first.
	return c.Store.ChangeSnapshot(ctx, db.SnapshotChange{
		ID: n, From: []models.SnapshotState{models.SnapshotCreating, models.SnapshotReady}, To: models.SnapshotReady, Bytes: bytes, By: by,
		Audit: db.Audit{Action: auditKeep, Outcome: "ok"},
	})
}

// notKept writes down that a snapshot was not made and returns why for the user. Where the host may have it nevertheless, the reconciler removes it.
func (c *Controller) notKept(ctx context.Context, by By, made models.Snapshot, cause error) error {
	e := c.explain(ctx, present(made.Sandbox, cause), childless)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
	defer cancel()
	change := db.SnapshotChange{
		ID: made.ID, From: []models.SnapshotState{models.SnapshotCreating, models.SnapshotReady}, To: models.SnapshotDeleting, By: by.db(),
		Audit: db.Audit{Action: auditKeep, Outcome: string(e.Code)},
	}
	var err error
	if grpcerr.FromAgent(cause) {
		err = c.Store.RemoveSnapshot(ctx, change)
	} else {
		_, err = c.Store.ChangeSnapshot(ctx, change)
	}
	if err != nil && !errors.Is(err, db.ErrMoved) {
		c.Log.Error("failure of a snapshot not recorded: the reconciler will", "snapshot_id", made.ID, "op_id", by.Request, "error", err)
	}
	return models.Errorf(e.Code, "no snapshot of the sandbox %s could be made: %s", made.Sandbox, e.Message).WithCause(cause).WithHint("%s", cmp.Or(e.Hint, "it is as it was"))
}

// DeleteSnapshot removes a snapshot; sandboxes that were created from it go on. When its host cannot be reached it stays in state deleting until the reconciler
// can finish, and the error says so. It goes on when ctx ends.
func (c *Controller) DeleteSnapshot(ctx context.Context, by By, n id.Snapshot) error {
	_, err := c.onSnapshot(ctx, discardOp, func(ctx context.Context) (models.Snapshot, error) { return models.Snapshot{}, c.discard(ctx, by, n) })
	return err
}

func (c *Controller) discard(ctx context.Context, by By, n id.Snapshot) error {
	row, err := c.Store.Snapshot(ctx, by.Account, n)
	if err != nil {
		return err
	}
	if row.State == models.SnapshotCreating {
		return models.Errorf(models.Precondition, "the snapshot %s is still being made", n).WithHint("wait until it is ready")
	}
	_, err = c.Store.ChangeSnapshot(ctx, db.SnapshotChange{
		ID: n, From: []models.SnapshotState{models.SnapshotReady, models.SnapshotFailed, models.SnapshotDeleting}, To: models.SnapshotDeleting, By: by.db(),
		Audit: db.Audit{Action: auditDiscard, Outcome: "accepted"},
	})
	if err == nil {
		err = c.erase(ctx, by.db(), row.Host, n)
	}
	if errors.Is(err, db.ErrMoved) {
		return nil // another request has removed it
	}
	if err != nil {
		e := models.AsError(err)
		return models.Errorf(e.Code, "the snapshot %s is not deleted yet: %s", n, e.Message).WithCause(err).
			WithHint("it stays in state deleting; the platform tries again by itself until it is deleted")
	}
	return nil
}

// erase has the host remove a snapshot that is being deleted, and then its row.
func (c *Controller) erase(ctx context.Context, by db.By, host id.Host, n id.Snapshot) error {
	client, err := c.Fleet.Client(host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Limits.Destroy)
	defer cancel()
	if err := client.DeleteSnapshot(ctx, n); err != nil {
		return err
	}
	return c.Store.RemoveSnapshot(ctx, erased(n, by))
}

func erased(n id.Snapshot, by db.By) db.SnapshotChange {
	return db.SnapshotChange{
		ID: n, From: []models.SnapshotState{models.SnapshotDeleting}, By: by, Audit: db.Audit{Action: auditDiscard, Outcome: "ok"},
	}
}

// origin returns the snapshot that a sandbox is to be made from, zero for none, and completes the request by what it says.
func (c *Controller) origin(ctx context.Context, by By, r *Request) (models.Snapshot, error) {
	if r.Snapshot == "" {
		return models.Snapshot{}, nil
	}
	from, err := c.Store.Snapshot(ctx, by.Account, r.Snapshot)
	switch {
	case err != nil:
		return from, err
	case from.State == models.SnapshotFailed:
		return from, models.Errorf(models.Precondition, "the snapshot %s cannot be used: %s", from.ID, from.Reason)
	case from.State != models.SnapshotReady:
		return from, models.Errorf(models.Precondition, "the snapshot %s is in state %s, not ready", from.ID, from.State)
	}
	r.Template = from.Template
	if r.SameNetwork {
		r.Network = from.Network
	}
	return from, nil
}
