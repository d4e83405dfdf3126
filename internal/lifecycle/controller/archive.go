package controller

import (
	"context"
	"strings"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/hostclient"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// keepArchive tidies the object store now and then, as long as ctx. It is the one replica's that reconciles.
func (r *Reconciler) keepArchive(ctx context.Context) {
	for wait := r.pace.Archive / 12; pause(ctx, wait); wait = r.pace.Archive {
		client, err := r.c.Fleet.archivist()
		if err != nil {
			continue // there is none, or its hosts are away
		}
		if err := r.tidy(ctx, client); err != nil && ctx.Err() == nil {
			r.log.Warn("object store not tidied; tried again later", "next_try_in", r.pace.Archive, "error", err)
		}
	}
}

// tidy removes the snapshots that no sandbox needs any more, then the chunks that no snapshot does.
func (r *Reconciler) tidy(ctx context.Context, client *hostclient.Client) error {
	removed, err := r.sweepArchive(ctx, client)
	if err != nil {
		return err
	}
	done, err := client.Collect(ctx)
	if err != nil {
		return err
	}
	r.log.Info("object store tidied", "snapshots", done.Snapshots, "snapshots_removed", removed,
		"chunks", done.Chunks, "chunks_deleted", done.Deleted, "bytes_deleted", done.DeletedBytes)
	return nil
}

// sweepBatch is how many snapshots are looked up in the database at once.
const sweepBatch = 1000

// sweepArchive removes snapshots of sandboxes that are gone, or are another one by now: what a destroy, a hibernation or a control plane left that broke off. The rows are read
// after the keys, so that a row which says that a sandbox is another snapshot is newer than the one that was listed.
func (r *Reconciler) sweepArchive(ctx context.Context, client *hostclient.Client) (removed int, err error) {
	keys, err := client.Archived(ctx)
	for len(keys) > 0 && err == nil {
		var n int
		batch := keys[:min(sweepBatch, len(keys))]
		n, err = r.sweep(ctx, client, batch)
		removed, keys = removed+n, keys[len(batch):]
	}
	return removed, err
}

func (r *Reconciler) sweep(ctx context.Context, client *hostclient.Client, keys []string) (removed int, err error) {
	of := map[id.Sandbox][]string{}
	var ids []id.Sandbox
	for _, key := range keys {
		if sb, ok := sleeperOf(key); ok {
			of[sb] = append(of[sb], key)
			ids = append(ids, sb)
		}
	}
	rows, err := r.store.Archived(ctx, ids)
	if err != nil {
		return 0, err
	}
	for _, row := range rows {
		for _, key := range of[row.ID] {
			if !stale(row, key) {
				continue
			}
			if err := client.RemoveArchive(ctx, key); err != nil {
				return removed, err
			}
			removed++
		}
	}
	return removed, nil
}

// sleeperOf returns the sandbox whose sleep is stored under a key: it begins with <sandbox>-pause-. Others, and what is of another installation, are left alone.
func sleeperOf(key string) (id.Sandbox, bool) {
	name, _, found := strings.Cut(key, "-pause-")
	sb, err := id.ParseSandbox(name)
	return sb, found && err == nil
}

// stale tells whether a stored snapshot can neither be what its sandbox is nor become it. While a sandbox sleeps on its host, or is on its way, it may: its snapshot there may be stored again
// under the same key.
func stale(row db.Archived, key string) bool {
	switch row.State {
	case models.Stopped:
		return true
	case models.Running, models.Hibernated:
		return row.Key != key
	default:
		return false
	}
}
