package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/api"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/eventfeed"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/metrics"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/scheduler"
	"github.com/wrenn-sandbox/wrenn/internal/webhook"
)

func newServe(cfg *config.ControlPlane) *cobra.Command {
	var noMigrate bool
	cmd := &cobra.Command{
		Use: "serve", Short: "Migrate the database and serve the API until SIGTERM (the default)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := logger(*cfg)
			if !noMigrate {
				if err := migrate(cmd.Context(), cfg.DatabaseURL, log); err != nil {
					return err
				}
			}
			return serve(cmd.Context(), *cfg, log)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noMigrate, "no-migrate", false, "take the database's schema as it is")
	f.StringVar(&cfg.Listen, "listen", cfg.Listen, "host:port of the API")
	f.StringVar(&cfg.MetricsListen, "metrics-listen", cfg.MetricsListen, "host:port of GET /metrics, which asks for no key; empty: none")
	f.StringVar(&cfg.Domain, "domain", cfg.Domain, "below which ports of sandboxes have host names; *.domain must lead here")
	f.StringSliceVar(&cfg.PrivateNetworks, "private-networks", cfg.PrivateNetworks, "private IPv4 networks that users may let their sandboxes reach")
	f.StringSliceVar(&cfg.WebhookNetworks, "webhook-networks", cfg.WebhookNetworks, "networks that are not public, to which webhooks may lead")
	f.StringVar(&cfg.Agent, "agent", cfg.Agent, `host agents of this machine, separated by commas: unix:///path; "off" where all hosts join`)
	f.DurationVar(&cfg.CreateTimeout, "create-timeout", cfg.CreateTimeout, "until a new sandbox must run")
	f.DurationVar(&cfg.StopGrace, "stop-grace", cfg.StopGrace, "that a guest has to end in order")
	f.DurationVar(&cfg.DrainTimeout, "drain-timeout", cfg.DrainTimeout, "for requests under way at the end")
	f.DurationVar(&cfg.AutoPauseAfter, "auto-pause-after", cfg.AutoPauseAfter, "without use, of sandboxes whose creation does not say; 0: never")
	f.DurationVar(&cfg.AutoHibernateAfter, "auto-hibernate-after", cfg.AutoHibernateAfter, "paused, likewise")
	f.DurationVar(&cfg.AutoDestroyAfter, "auto-destroy-after", cfg.AutoDestroyAfter, "asleep, or failed, likewise")
	f.DurationVar(&cfg.SandboxTimeout, "sandbox-timeout", cfg.SandboxTimeout, "from a sandbox's start, whatever it does, likewise")
	f.StringVar(&cfg.OnTimeout, "on-timeout", cfg.OnTimeout, "destroy or pause: what happens then")
	f.StringVar(&cfg.RateLimits, "rate-limits", cfg.RateLimits, "of each key: class=requests a second:at once, of the classes read, write, create and guest; off for none")
	f.Float64Var(&cfg.VCPUOvercommit, "vcpu-overcommit", cfg.VCPUOvercommit, "how many times a host's CPUs may be promised")
	f.Float64Var(&cfg.MemoryOvercommit, "memory-overcommit", cfg.MemoryOvercommit, "how many times its memory may be promised")
	f.Float64Var(&cfg.DiskOvercommit, "disk-overcommit", cfg.DiskOvercommit, "how many times its disk may be promised")
	return cmd
}

func migrate(ctx context.Context, url string, log *slog.Logger) error {
	steps, err := db.MigrateUp(ctx, url)
	if err != nil {
		return err
	}
	log.Info("database is up to date", "migrations_applied", steps)
	return nil
}

// parts is what a running control plane is made of.
type parts struct {
	store *db.Store
	cache *auth.Cache
	auth  *auth.Authenticator
	limit *auth.Limiter
	feed  *eventfeed.Feed
	fleet *controller.Fleet
	ctl   *controller.Controller

	metrics *metrics.Set

	hookNetworks []netip.Prefix // that are not public, to which webhooks may lead
}

// assemble opens the parts. Nothing of it connects: what cannot be reached shows in /readyz.
func assemble(ctx context.Context, cfg config.ControlPlane, log *slog.Logger) (p parts, err error) {
	private, err := cfg.PrivatePrefixes()
	if err != nil {
		return p, err
	}
	if p.hookNetworks, err = cfg.WebhookPrefixes(); err != nil {
		return p, err
	}
	rates, err := limits(cfg)
	if err != nil {
		return p, err
	}
	if p.store, err = db.Open(ctx, cfg.DatabaseURL); err != nil {
		return p, err
	}
	if p.fleet, err = controller.NewFleet(cfg.Agents(), p.store, log); err != nil {
		p.store.Close()
		return p, err
	}
	if cfg.RedisURL != config.NoRedis {
		if p.cache, err = auth.OpenCache(cfg.RedisURL, log); err != nil { //nolint:contextcheck // its work in the background ends with Close
			p.store.Close()
			return p, err
		}
	}
	var bell eventfeed.Bell
	if p.cache != nil {
		bell = p.cache
	}
	p.feed = eventfeed.New(p.store, bell, log)
	p.store.WhenEvents(p.feed.Notify)
	p.limit = auth.NewLimiter(p.cache, rates)
	p.auth = auth.New(p.store, p.cache, log) //nolint:contextcheck // likewise
	p.metrics = metrics.New(version)
	over := scheduler.Overcommit{VCPU: cfg.VCPUOvercommit, Memory: cfg.MemoryOvercommit, Disk: cfg.DiskOvercommit}
	p.ctl = controller.New(controller.Options{
		Store: p.store, Fleet: p.fleet, Log: log,
		Limits:          controller.Limits{Create: cfg.CreateTimeout, Grace: cfg.StopGrace},
		Overcommit:      over,
		PrivateNetworks: private, Lifecycle: cfg.Lifecycle(), Meter: controller.NewMeter(p.metrics),
	})
	lookAround(p.metrics, p, over, log) //nolint:contextcheck // each look has a limit of its own
	return p, nil
}

func limits(cfg config.ControlPlane) (map[string]auth.Rate, error) {
	configured, err := cfg.Rates()
	rates := map[string]auth.Rate{}
	for class, r := range configured {
		rates[class] = auth.Rate(r)
	}
	return rates, err
}

// serve answers until ctx ends, then ends in order: requests, operations, background work,
// connections.
func serve(ctx context.Context, cfg config.ControlPlane, log *slog.Logger) error {
	p, err := assemble(ctx, cfg, log)
	if err != nil {
		return err
	}
	var open net.ListenConfig
	listener, err := open.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		err = models.Errorf(models.Unavailable, "cannot listen on %s: %v", cfg.Listen, err).
			WithHint("another process may be using the port: choose one with --listen")
		return errors.Join(err, p.close())
	}
	counted, err := listenForMetrics(ctx, cfg)
	if err != nil {
		return errors.Join(err, listener.Close(), p.close())
	}
	behind, cancel := context.WithCancel(context.WithoutCancel(ctx)) // work in the background outlives requests
	var wg sync.WaitGroup
	wg.Go(func() { controller.KeepAlive(behind, p.store, log) })
	wg.Go(func() { p.fleet.Run(behind) })
	wg.Go(func() { controller.NewReconciler(p.ctl, p.store, controller.Pace{}).Run(behind) })
	wg.Go(func() { controller.NewKeeper(p.ctl, p.store, controller.KeeperTick).Run(behind) })
	server := api.New(api.Options{
		Store: p.store, Auth: p.auth, Controller: p.ctl, Redis: p.cache, Feed: p.feed, Limiter: p.limit, Log: log, Domain: cfg.Domain, WebhookNetworks: p.hookNetworks,
		Meter: api.NewMeter(p.metrics),
	})
	sender := webhook.NewSender(webhook.Options{Store: p.store, View: api.EncodeEvent, Allowed: p.hookNetworks, Log: log, Version: version})
	wg.Go(func() { sender.Run(behind) })
	wg.Go(func() { server.SweepAnswers(behind) })
	wg.Go(func() { p.feed.Run(behind) })
	if cfg.LagoURL != "" {
		wg.Go(func() { newCourier(cfg, p.store, log).Run(behind) })
	}
	if counted != nil {
		wg.Go(func() { p.metrics.Serve(behind, counted, log) })
	}
	defer context.AfterFunc(ctx, func() { // whoever follows or waits goes on at another replica, and holds up no end
		p.feed.End()
		p.ctl.Retire()
		server.End()
	})()

	log.Info("serving", "url", "http://"+listener.Addr().String(), "agent", cfg.Agent, "version", version)
	err = api.Serve(ctx, listener, server.Handler(), cfg.DrainTimeout, log)
	log.Info("stopping")
	drain, done := context.WithTimeout(behind, cfg.DrainTimeout)
	p.ctl.Close(drain)
	done()
	cancel()
	wg.Wait()
	return errors.Join(err, p.close())
}

// listenForMetrics opens the listener of metrics, nil where they are told nobody.
func listenForMetrics(ctx context.Context, cfg config.ControlPlane) (net.Listener, error) {
	if cfg.MetricsListen == "" {
		return nil, nil
	}
	return metrics.Listen(ctx, cfg.MetricsListen)
}

func (p parts) close() error {
	p.auth.Close()
	var err error
	if p.cache != nil {
		if err = p.cache.Close(); err != nil {
			err = fmt.Errorf("close Redis: %w", err)
		}
	}
	p.store.Close()
	return err
}
