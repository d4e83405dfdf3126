package agent

import (
	"context"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// VerifyArchive reads all that is stored under a key, no faster than this host reads what nobody waits for, and returns what is wrong with it, "" for nothing. What is the
// template's is held against the template where this host has it. Errors: Precondition where this host has no object store or is not to scrub, and those of the store.
func (a *Agent) VerifyArchive(ctx context.Context, key string) (damage string, err error) {
	archive, err := a.Archive()
	if err != nil {
		return "", err
	}
	if a.cfg.ScrubMiBs == 0 {
		return "", models.Errorf(models.Precondition, "what is stored is not read by this host (scrub_mib_s)")
	}
	if err := a.begin(); err != nil {
		return "", err
	}
	defer a.tasks.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.life, cancel)()
	template := ""
	if m, err := archive.Manifest(ctx, key); err == nil {
		template = a.originOf(record{Template: m.Template.Name, Digest: m.Template.Digest}).Template
	}
	err = archive.Scrub(ctx, key, template, func() error {
		if err := a.giveWay(ctx); err != nil {
			return err
		}
		return a.scrubPace.WaitN(ctx, snapshot.ChunkSize)
	})
	switch code := models.CodeOf(err); {
	case err == nil:
		return "", nil
	case code == models.Precondition, code == models.NotFound:
		a.log.Error("what is stored is damaged", "key", key, "error", err)
		return models.AsError(err).Message, nil
	}
	return "", err
}
