package agent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/network"
)

// bringUp makes the sandbox's VM, with a guest that is its own: from the golden snapshot where there is one, else by booting, also where that
// snapshot turns out to be of no use.
func (a *Agent) bringUp(ctx context.Context, s *sandbox, tmpl filesystem.Template, env map[string]string, clock *stopwatch) (network.Link, error) {
	g := a.goldenFor(tmpl, s.view().Size)
	if g == nil {
		return a.boot(ctx, s, tmpl, env, clock)
	}
	defer a.golden.giveBack(g)
	link, err := a.provideAgain(ctx, s, g.Snapshot)
	if err != nil {
		return link, err
	}
	clock.lap("clone_disk_and_attach_network")
	err = a.hatch(ctx, s, a.golden.source(g), link, clock, envdclient.Init{Token: s.token(), Hostname: string(s.id), Env: env, DefaultUser: tmpl.DefaultUser})
	if err == nil {
		a.golden.proved(g)
		s.update(func(r *record) { r.Size = shapeOf(g.Snapshot).size })
	}
	if err == nil || ctx.Err() != nil {
		return link, err
	}
	a.giveUp(shapeOf(g.Snapshot), g, err)
	if err := a.startOver(ctx, s); err != nil {
		return link, err
	}
	clock.lap("restore_failed")
	return a.boot(ctx, s, tmpl, env, clock)
}

// startOver removes what a restore left, for the VM to be booted instead.
func (a *Agent) startOver(ctx context.Context, s *sandbox) error {
	left, err := a.endVM(ctx, s)
	if err != nil {
		return fmt.Errorf("end the VM that was restored: %w", err)
	}
	return errors.Join(left, os.RemoveAll(a.diskPath(s.id)), os.RemoveAll(a.basePath(s)), os.RemoveAll(a.runDir(s.id)), os.Mkdir(a.runDir(s.id), 0o700))
}
