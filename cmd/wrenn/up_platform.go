package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/devstack"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

const (
	// stopLimit bounds the end of everything.
	stopLimit = 2 * time.Minute
	// destroyLimit bounds the orderly destruction of sandboxes; what is left then, the host agent purges.
	destroyLimit = 30 * time.Second
	// lockPatience is how long an earlier `wrenn up` that is just ending is waited for.
	lockPatience = 3 * time.Second
)

// platform is everything that `wrenn up` runs.
type platform struct {
	upOptions
	stderr io.Writer
	log    *slog.Logger
	failed chan error // has room for what every part can report

	unlock       func()
	fresh        bool // nothing was left of an earlier platform when this one started
	stack        *devstack.Stack
	namespace    string // path of the sandboxes' network namespace, "" for the host's
	agent        *child.Keeper
	controlPlane *child.Keeper
	logs         []*child.Log
	key          string
	client       *wrenn.Client
	templates    []wrenn.Template

	mu sync.Mutex // guards logs, and that lines on stderr stay whole
}

func newPlatform(o upOptions, stderr io.Writer) *platform {
	p := &platform{upOptions: o, stderr: stderr, failed: make(chan error, 4)}
	p.log = slog.New(slog.NewTextHandler(&lineWriter{p: p, prefix: "wrenn"}, nil))
	return p
}

// say tells the user what happens.
func (p *platform) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.stderr, "wrenn up: "+format+"\n", args...)
}

// url is where the API is reached from this machine.
func (p *platform) url() string {
	host, port, _ := net.SplitHostPort(p.listen) // checked by freeAddress
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// start makes everything and waits until sandboxes can be created. After an error the caller calls stop as well.
func (p *platform) start(ctx context.Context) error {
	if err := p.takeFolder(ctx); err != nil {
		return err
	}
	if err := p.endLeftovers(ctx); err != nil {
		return err
	}
	both, bothCtx := errgroup.WithContext(ctx)
	both.Go(func() error { return p.startDatabases(bothCtx) })
	both.Go(func() error { return p.startAgent(bothCtx) })
	if err := both.Wait(); err != nil {
		return err
	}
	return p.startControlPlane(ctx)
}

// takeFolder makes the data folder and locks it.
func (p *platform) takeFolder(ctx context.Context) error {
	if err := os.MkdirAll(p.data, 0o711); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(p.data, "log"), 0o700); err != nil {
		return fmt.Errorf("make the folder of logs: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	var err error
	_ = child.Poll(ctx, func() bool { // that the time ran out shows in err
		p.unlock, err = devstack.Lock(filepath.Join(p.data, "up.lock"))
		return models.CodeOf(err) != models.Conflict || err == nil
	})
	return err
}

func (p *platform) startDatabases(ctx context.Context) error {
	if p.postgres == "" || p.redis == "" {
		p.say("starting the databases")
		stack, err := devstack.Start(ctx, devstack.Options{
			Dir: filepath.Join(p.data, "databases"), Logger: p.log, Cache: devstack.DefaultCache(), Failed: p.partFailed,
		})
		if err != nil {
			return fmt.Errorf("start the databases: %w", err)
		}
		p.stack = stack
		p.postgres, p.redis = firstOf(p.postgres, stack.PostgresURL), firstOf(p.redis, stack.RedisURL)
	}
	out, err := p.runTool(ctx, p.controlPlaneSpec("seed", "--key-file", filepath.Join(p.data, devKeyFile)))
	if err != nil {
		return fmt.Errorf("prepare the database: %w", err)
	}
	if p.key = strings.TrimSpace(out); p.key == "" {
		return errors.New("prepare the database: no key was made")
	}
	p.client, err = wrenn.NewClient(wrenn.Options{BaseURL: p.url(), APIKey: p.key, UserAgent: "wrenn-up"})
	return err
}

// startControlPlane starts it and checks that the key opens it and that there are templates.
func (p *platform) startControlPlane(ctx context.Context) (err error) {
	p.say("starting the control plane")
	if p.controlPlane, err = p.keepRunning(ctx, "control-plane", p.controlPlaneSpec("serve"), p.apiReady); err != nil {
		return err
	}
	if p.templates, err = p.client.Templates(ctx); err != nil {
		return fmt.Errorf("ask the control plane for templates: %w", err)
	}
	if len(p.templates) == 0 {
		return models.Errorf(models.Precondition, "there is no template in %s", p.images).WithHint("make images")
	}
	return nil
}

// stop ends everything in the opposite order. Unless the sandboxes are to be kept, they are destroyed: politely while
// the API still answers, and whatever is left by the host agent's purge. After a start that failed, what an earlier
// platform left is kept too.
func (p *platform) stop(ctx context.Context, ready bool) error {
	keep := p.keepSandboxes
	if !ready {
		keep = !p.fresh
	}
	if p.controlPlane != nil {
		if ready && !keep {
			p.destroySandboxes(ctx)
		}
		p.controlPlane.Stop(ctx)
	}
	if p.agent != nil {
		p.agent.Stop(ctx)
	}
	var errs []error
	if !keep {
		errs = append(errs, p.purge(ctx))
	}
	if p.stack != nil {
		errs = append(errs, p.stack.Stop(ctx))
	}
	for _, l := range p.logs {
		errs = append(errs, l.Close())
	}
	if p.unlock != nil {
		p.unlock()
	}
	return errors.Join(errs...)
}

// destroySandboxes destroys what the development key made, so that the database knows who did it. It is no failure if
// that does not succeed: purge follows.
func (p *platform) destroySandboxes(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, destroyLimit)
	defer cancel()
	all, allCtx := errgroup.WithContext(ctx)
	all.SetLimit(atOnce)
	n := 0
	for s, err := range p.client.AllSandboxes(ctx, wrenn.ListOptions{Limit: 200}) {
		if err != nil {
			p.log.Warn("sandboxes cannot be listed", "error", err)
			break
		}
		n++
		all.Go(func() error {
			_, err := p.client.DestroySandbox(allCtx, s.ID)
			return err
		})
	}
	if n > 0 {
		p.say("destroying %d sandbox(es); --keep would leave them running", n)
	}
	if err := all.Wait(); err != nil {
		p.log.Warn("a sandbox was not destroyed in order", "error", err)
	}
}

// partFailed ends the platform. Each part reports at most once, for which failed has room.
func (p *platform) partFailed(err error) {
	p.failed <- models.Errorf(models.Internal, "%v", err).WithHint("the logs are in %s", filepath.Join(p.data, "log"))
}
