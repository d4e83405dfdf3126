package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object/place"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot/archive"
)

// checkObjects asks the object store whether it answers and lets us in. A folder that is not there yet the host agent makes.
func checkObjects(ctx context.Context, m *machine) Finding {
	const name, fix = "object store", "sandboxes cannot be hibernated, and hibernated ones not resumed, until WRENN_OBJECTS and WRENN_S3_… are right and the store answers"
	cfg, err := m.Objects()
	if err != nil {
		return warn(name, err.Error(), fix)
	}
	if cfg.Place == "" {
		return ok(name, "none is configured: sandboxes cannot be hibernated (wrenn up takes a folder in its data folder)")
	}
	if !cfg.InS3() {
		return checkObjectFolder(cfg)
	}
	objects, err := place.Open(cfg)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		err = archive.New(objects, nil).Check(ctx)
	}
	if err != nil {
		return warn(name, cfg.Place+": "+models.AsError(err).Message, fix)
	}
	return ok(name, cfg.Place+" at "+cfg.Endpoint)
}

func checkObjectFolder(cfg config.Objects) Finding {
	const name = "object store"
	if info, err := os.Stat(cfg.Place); err == nil && !info.IsDir() || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return warn(name, cfg.Place+" is no folder, and cannot become one", "name another with WRENN_OBJECTS")
	}
	return ok(name, "the folder "+cfg.Place+", for this host alone")
}
