package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/hostapi"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/agent"
	"github.com/wrenn-sandbox/wrenn/internal/metrics"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/tunnel"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker"
	"github.com/wrenn-sandbox/wrenn/internal/vm/kvm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/qemu"
	"github.com/wrenn-sandbox/wrenn/internal/vm/seccomp"
)

// drainLimit bounds how long calls under way may hold up the agent's end.
const drainLimit = 10 * time.Second

// spareVMMs is how many VMMs are started ahead, each of another template or size.
const spareVMMs = 4

// parts is what a running agent is made of.
type parts struct {
	volume *filesystem.Volume // where sandboxes and images lie
	driver vm.Driver
	net    *network.Network
	images *filesystem.Store
	agent  *agent.Agent
	names  *nameServer // nil where nothing is served

	metrics *metrics.Set
}

func serve(ctx context.Context, cfg config.Agent) error {
	log := logger(cfg)
	p, err := assemble(ctx, cfg, log)
	if err != nil {
		return err
	}
	if err := takeIn(ctx, p.images, cfg.Images); err != nil {
		return errors.Join(err, p.close())
	}
	host, err := newHost(cfg, p, log)
	if err != nil {
		return errors.Join(err, p.close())
	}
	if p.names, err = serveNames(ctx, cfg, p, log); err != nil {
		return errors.Join(err, p.close())
	}
	ln, identity, err := open(ctx, cfg, host, log)
	if err != nil {
		return errors.Join(err, p.close())
	}
	lookAround(p.metrics, p, log)
	stopMetrics, err := serveMetrics(ctx, cfg, p.metrics, log)
	if err != nil {
		return errors.Join(err, ln.Close(), p.close())
	}
	server := hostapi.New(p.agent, host.info, identity, hostapi.NewMeter(p.metrics), log)
	log.Info("host agent ready", "listen", cfg.Listen, "host_id", host.id, "driver", p.driver.Info().Driver,
		"driver_version", p.driver.Info().Version, "accelerator", p.driver.Info().Accelerator, "memory_may_come_later", p.driver.Info().Lazy)
	keeping, stopKeeping := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { p.volume.KeepTrimmed(keeping, log) })
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	select {
	case err = <-served:
	case <-ctx.Done():
		log.Info("host agent stops; its sandboxes go on", "sandboxes", len(p.agent.Sandboxes()))
		p.agent.EndWatches() // at which control planes give up the connections to guests that nobody uses
		err = drain(server, served, log)
	}
	stopMetrics()
	stopKeeping()
	keeper.Wait()
	return errors.Join(err, p.close())
}

// drain lets calls and tunnels under way end, for a while.
func drain(server *tunnel.Server, served <-chan error, log *slog.Logger) error {
	timer := time.AfterFunc(drainLimit, func() {
		log.Warn("calls under way are broken off", "after", drainLimit)
		server.Stop()
	})
	defer timer.Stop()
	server.GracefulStop()
	return <-served
}

// assemble opens the parts in order; on an error those that were opened are closed.
func assemble(ctx context.Context, cfg config.Agent, log *slog.Logger) (p *parts, err error) {
	p = &parts{metrics: metrics.New(version)}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.volume, err = openVolume(ctx, cfg, log); err != nil {
		return p, err
	}
	if p.driver, err = openDriver(ctx, cfg, log); err != nil {
		return p, err
	}
	if p.images, err = filesystem.Open(ctx, filesystem.Config{Dir: p.volume.Dir, Volume: p.volume, Logger: log}); err != nil {
		return p, fmt.Errorf("open the images: %w", err)
	}
	subnet, err := cfg.SubnetPrefix()
	if err != nil {
		return p, err
	}
	ipv6, err := cfg.IPv6Prefix()
	if err != nil {
		return p, err
	}
	jails, err := openJails(cfg, subnet, log)
	if err != nil {
		return p, err
	}
	owners := cfg.OwnerBase
	if jails == nil {
		owners = 0 // VMMs are root
	}
	if p.net, err = network.Open(ctx, network.Config{Subnet: subnet, SubnetIPv6: ipv6, OwnerBase: owners, Logger: log}); err != nil {
		return p, fmt.Errorf("open the network: %w", err)
	}
	kernel, err := filepath.Abs(cfg.Kernel)
	if err != nil {
		return p, fmt.Errorf("find the guest kernel: %w", err)
	}
	stored, err := openArchive(ctx, cfg.Objects, p.volume, log)
	if err != nil {
		return p, err
	}
	sources, err := memorySources(cfg.Objects, cacheFolder(cfg.Objects, p.volume))
	if err != nil {
		return p, err
	}
	p.agent, err = agent.Open(ctx, agent.Config{
		Dir: p.volume.Dir, Kernel: kernel, Driver: p.driver, Network: p.net, Images: p.images, Jails: jails, GoldenMiB: cfg.GoldenMiB, PoolMiB: cfg.PoolMiB, Spares: spareVMMs,
		ScrubMiBs: cfg.ScrubMiBs, ScrubEvery: cfg.ScrubEvery, Archive: stored, MemorySource: sources, Refused: countRefusals(p.metrics), Logger: log,
	})
	return p, err
}

// close leaves sandboxes, devices and rules as they are.
func (p *parts) close() error {
	var errs []error
	if p.names != nil {
		p.names.close()
	}
	if p.agent != nil {
		errs = append(errs, p.agent.Close())
	}
	if p.net != nil {
		errs = append(errs, p.net.Close(context.Background(), false))
	}
	return errors.Join(errs...)
}

// openVolume returns the place for sandboxes and images: a volume with reflinks where one is wanted or
// exists, else the data folder.
func openVolume(ctx context.Context, cfg config.Agent, log *slog.Logger) (*filesystem.Volume, error) {
	data, err := filepath.Abs(cfg.Data)
	if err != nil {
		return nil, fmt.Errorf("find the data folder: %w", err)
	}
	if err := os.MkdirAll(data, 0o711); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	plain := &filesystem.Volume{Dir: data, Native: true}
	if cfg.Volume == "off" {
		if filesystem.VolumeExists(data) {
			return nil, models.Errorf(models.Precondition, "%s holds a volume, which volume=off would hide with all that is on it", data).
				WithHint("leave volume at auto, or use another data folder")
		}
		return plain, nil
	}
	volume, err := filesystem.EnsureReflinkVolume(ctx, data, filesystem.VolumeConfig{SizeGiB: cfg.VolumeGiB, Logger: log})
	if errors.Is(err, filesystem.ErrNoVolume) {
		log.Warn("no volume with reflinks can be made here; every disk is a full copy", "reason", err)
		return plain, nil
	}
	return volume, err
}

// openDriver opens the driver asked for. auto takes Firecracker where it is installed and KVM is usable, else QEMU.
func openDriver(ctx context.Context, cfg config.Agent, log *slog.Logger) (vm.Driver, error) {
	verdict := kvm.Probe(ctx, kvm.Device)
	if cfg.Driver == firecracker.Name || cfg.Driver == "auto" && verdict.Usable {
		driver, err := openFirecracker(ctx, cfg, log)
		if err == nil || cfg.Driver == firecracker.Name || cfg.SeccompFilter != "" { // QEMU has no use for that
			return driver, err
		}
		log.Info("Firecracker cannot be used; taking QEMU", "reason", err)
	}
	return qemu.New(ctx, qemu.Options{KVM: &verdict, Unjailed: cfg.Jail == "off", Log: log})
}

// openFirecracker says so where a Firecracker that a guest has taken over may make any system call, or that cannot be told.
func openFirecracker(ctx context.Context, cfg config.Agent, log *slog.Logger) (vm.Driver, error) {
	pages, err := pagerCommand(cfg.Objects)
	if err != nil {
		return nil, err
	}
	driver, err := firecracker.New(ctx, firecracker.Options{Unjailed: cfg.Jail == "off", SeccompFilter: cfg.SeccompFilter, Pager: pages})
	if err != nil {
		return nil, err
	}
	err = driver.CheckFilter(ctx)
	switch {
	case errors.Is(err, firecracker.ErrUnfiltered):
		log.Warn("Firecracker's system calls are not filtered; take a released binary, or give it a filter (seccomp_filter)", "reason", err)
	case errors.Is(err, seccomp.ErrUnknown):
		log.Warn("it is not known whether Firecracker's system calls are filtered", "reason", err)
	case err != nil:
		return nil, err
	}
	return driver, nil
}

// takeIn takes in every template image that is offered in a folder and not there yet. It fails unless there is one then.
func takeIn(ctx context.Context, images *filesystem.Store, folder string) error {
	offered, err := filepath.Glob(filepath.Join(folder, "*", filesystem.ManifestName))
	if err != nil {
		return fmt.Errorf("list template images: %w", err)
	}
	for _, manifest := range offered {
		if _, err := images.Import(ctx, filepath.Dir(manifest)); err != nil {
			return fmt.Errorf("take in the template in %s: %w", filepath.Dir(manifest), err)
		}
	}
	if templates, err := images.Templates(); len(templates) == 0 {
		return models.Errorf(models.Precondition, "there is no template in %s", folder).
			WithHint("run 'make images', or point --images at a folder of template images").WithCause(err)
	}
	return nil
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	path, isUnix := strings.CutPrefix(address, "unix://")
	if !isUnix {
		ln, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
		return ln, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("make the folder of the socket: %w", err)
	}
	// The data folder's lock makes this the only agent: a socket that is there is a dead agent's.
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("remove a dead agent's socket: %w", err)
	}
	ln, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // who can connect owns every sandbox
		return nil, errors.Join(fmt.Errorf("protect %s: %w", path, err), ln.Close())
	}
	return ln, nil
}
