// Command host-agent owns the sandboxes of one host: their VMs, disks and network. The
// control plane reaches it over gRPC. It runs as root, one a data folder; its end ends no sandbox.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

var version = "devel" // set by the build

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "host-agent:", err)
		var coded *models.Error
		if errors.As(err, &coded) && coded.Hint != "" {
			fmt.Fprintln(os.Stderr, "  ", coded.Hint)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if slices.Equal(args, []string{pagerVerb}) {
		return runPager()
	}
	cfg, err := config.LoadAgent()
	if err != nil {
		return err
	}
	root := &cobra.Command{
		Use: "host-agent", Short: "The Wrenn host agent: VMs, disks and network of one host",
		Version: version, SilenceUsage: true, SilenceErrors: true,
	}
	declare(root, &cfg)
	serve := &cobra.Command{
		Use: "serve", Short: "Take over what runs, and serve the control plane until SIGTERM (the default)", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return inNamespace(cfg, func() error { return serve(ctx, cfg) }) },
	}
	root.AddCommand(serve, &cobra.Command{
		Use: "purge", Short: "Destroy every sandbox of the data folder and remove devices, rules and mounts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return inNamespace(cfg, func() error { return purge(ctx, cfg) }) },
	}, newSetup(ctx, &cfg))
	root.RunE = serve.RunE
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// declare binds the flags, whose defaults are what the file and the environment said.
func declare(cmd *cobra.Command, cfg *config.Agent) {
	f := cmd.PersistentFlags()
	f.StringVar(&cfg.Data, "data", cfg.Data, "folder of sandboxes and images")
	f.StringVar(&cfg.Listen, "listen", cfg.Listen, "where the control plane connects: unix:///path or host:port")
	f.StringVar(&cfg.Join, "join", cfg.Join, "URL of the control plane that a host of a network joins at its first start")
	f.StringVar(&cfg.Token, "token", cfg.Token, "that control-plane host token has printed, for --join; better in WRENN_HOST_TOKEN, which other users do not see")
	f.StringVar(&cfg.Advertise, "advertise", cfg.Advertise, "host:port where control planes reach the agent, if that is not --listen")
	f.StringVar(&cfg.Kernel, "kernel", cfg.Kernel, "guest kernel")
	f.StringVar(&cfg.Images, "images", cfg.Images, "folder of template images to take in at start")
	f.StringVar(&cfg.Netns, "netns", cfg.Netns, "path of the network namespace to work in")
	f.StringVar(&cfg.Driver, "driver", cfg.Driver, "auto, qemu or firecracker")
	f.StringVar(&cfg.Volume, "volume", cfg.Volume, "auto: make an XFS volume in the data folder where its file system has no reflinks; off")
	f.IntVar(&cfg.VolumeGiB, "volume-gib", cfg.VolumeGiB, "size of that volume; 0 means four fifths of what is free (the file behind it is sparse)")
	f.StringVar(&cfg.Subnet, "subnet", cfg.Subnet, "network of the guests, cut into /30s")
	f.StringVar(&cfg.SubnetIPv6, "subnet-ipv6", cfg.SubnetIPv6, "network of the IPv6 addresses of guests whose policy allows IPv6")
	f.StringSliceVar(&cfg.DNS, "dns", cfg.DNS, "name servers that are asked for the guests, IP or IP:port (default: those of /etc/resolv.conf)")
	f.StringVar(&cfg.Jail, "jail", cfg.Jail, "on: each VMM has a user and a view of its own; off: VMMs run as root and see all")
	f.Uint32Var(&cfg.OwnerBase, "owner-base", cfg.OwnerBase, "first of the user ids of VMMs, one for each /30 of the subnet")
	f.StringVar(&cfg.Cgroup, "cgroup", cfg.Cgroup, "the cgroup v2 that limits sandboxes, below the root of the cgroups; off for no limits")
	f.IntVar(&cfg.DiskMiBs, "disk-mib-s", cfg.DiskMiBs, "MiB a second that a sandbox may read, and write, on the host's disk; 0 for as many as it can")
	f.IntVar(&cfg.ScrubMiBs, "scrub-mib-s", cfg.ScrubMiBs, "MiB a second at which stored snapshots are read, to see whether they are whole; 0: they are not")
	f.DurationVar(&cfg.ScrubEvery, "scrub-every", cfg.ScrubEvery, "how often each of them is")
	f.IntVar(&cfg.GoldenMiB, "golden-mib", cfg.GoldenMiB, "MiB of the disk for golden snapshots, from which sandboxes are made without booting; 0 for none")
	f.IntVar(&cfg.PoolMiB, "pool-mib", cfg.PoolMiB, "MiB of the memory for VMs that are restored from golden snapshots before anybody asks for them; 0 for none")
	f.StringVar(&cfg.Objects.Place, "objects", cfg.Objects.Place, "where hibernated sandboxes go: a folder, or s3://bucket or s3://bucket/prefix (WRENN_S3_… has the rest); empty for nowhere")
	f.IntVar(&cfg.Objects.CacheMiB, "chunk-cache-mib", cfg.Objects.CacheMiB, "MiB of the disk for what was fetched from S3; 0 for none")
	f.StringVar(&cfg.SeccompFilter, "seccomp-filter", cfg.SeccompFilter, "a filter compiled by seccompiler-bin, for a Firecracker that was built without one")
	f.StringVar(&cfg.MetricsListen, "metrics-listen", cfg.MetricsListen, "host:port of GET /metrics, which asks for no key; empty: none")
	f.StringVar(&cfg.LogFormat, "log-format", cfg.LogFormat, "text or json")
}

// inNamespace runs do in the configured network namespace. The whole process moves there, by
// executing itself again, since a Go program cannot move all its threads.
func inNamespace(cfg config.Agent, do func() error) error {
	if err := cfg.Check(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return models.Errorf(models.Forbidden, "the host agent needs root: it makes network devices, mounts and VMs")
	}
	if cfg.Netns != "" {
		if err := netns.EnterAndReexec(cfg.Netns); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", cfg.Netns, err)
		}
	}
	return do()
}

func logger(cfg config.Agent) *slog.Logger {
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
