package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/object/diskcache"
	"github.com/wrenn-sandbox/wrenn/internal/object/place"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot/archive"
)

// archiveCheckLimit bounds the first look at the object store, which does not hold up the sandboxes of this host for longer.
const archiveCheckLimit = 5 * time.Second

// cacheFolder is where what was fetched is kept; "" for nowhere: a folder of objects is as near.
func cacheFolder(cfg config.Objects, volume *filesystem.Volume) string {
	if !cfg.InS3() || cfg.CacheMiB == 0 {
		return ""
	}
	return filepath.Join(volume.Dir, "cache", "chunks")
}

// openArchive opens the object store, nil where none is configured. One that cannot be reached is no reason not to start: sandboxes run without.
func openArchive(ctx context.Context, cfg config.Objects, volume *filesystem.Volume, log *slog.Logger) (*archive.Archive, error) {
	if cfg.Place == "" {
		log.Info("there is no object store: sandboxes cannot be hibernated")
		return nil, nil
	}
	objects, err := place.Open(cfg)
	if err != nil {
		return nil, err
	}
	var cache *diskcache.Cache
	if dir := cacheFolder(cfg, volume); dir != "" {
		if cache, err = diskcache.Open(dir, int64(cfg.CacheMiB)<<20); err != nil {
			return nil, err
		}
	}
	a := archive.New(objects, cache)
	ctx, cancel := context.WithTimeout(ctx, archiveCheckLimit)
	defer cancel()
	if err := a.Check(ctx); err != nil {
		log.Warn("the object store cannot be used; until it can, no sandbox can be hibernated, and no hibernated one resumed", "objects", cfg.Place, "error", err)
	}
	return a, nil
}
