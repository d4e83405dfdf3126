// Command cluster runs a deployment of several replicas and hosts on this machine until SIGINT or SIGTERM: make dev-cluster.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devcluster"
)

// firstUser is beyond what an agent has by default.
const firstUser = 300_000

// stopLimit bounds the end of everything.
const stopLimit = 3 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	o := devcluster.Options{Users: firstUser, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flag.StringVar(&o.Dir, "data", "build/cluster", "folder of all that is kept")
	flag.StringVar(&o.Programs, "programs", "bin", "folder of control-plane and host-agent")
	flag.StringVar(&o.Kernel, "kernel", "build/guest/vmlinux", "guest kernel")
	flag.StringVar(&o.Images, "images", "build/guest/images", "folder of template images")
	flag.IntVar(&o.Hosts, "hosts", 3, "how many hosts")
	flag.IntVar(&o.Replicas, "replicas", 2, "how many replicas of the control plane")
	port := flag.Int("port", 8000, "of the first replica on 127.0.0.1; the others follow")
	flag.Parse()
	for i := range o.Replicas {
		o.Listen = append(o.Listen, net.JoinHostPort("127.0.0.1", strconv.Itoa(*port+i)))
	}
	fmt.Fprintln(os.Stderr, "starting; the first time this takes a minute or two")
	c, err := devcluster.Start(ctx, o)
	if err != nil {
		return err
	}
	announce(c)
	select {
	case <-ctx.Done():
	case err = <-c.Failed():
	}
	fmt.Fprintln(os.Stderr, "stopping")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if stopErr := c.Stop(ctx); err == nil {
		err = stopErr
	}
	return err
}

func announce(c *devcluster.Cluster) {
	fmt.Printf("\n%d hosts are ready. Replicas:\n\n", c.Hosts)
	for i := range c.Replicas {
		fmt.Printf("  export WRENN_URL=%s WRENN_API_KEY=%s   # process %d\n", c.URL(i), c.Key, c.ReplicaPID(i))
	}
	fmt.Print("\nAgents:\n\n")
	for i := range c.Hosts {
		fmt.Printf("  host %d   # process %d, log in %s/log\n", i, c.AgentPID(i), c.Dir)
	}
	fmt.Printf("\n  WRENN_DATABASE_URL='%s' %s/control-plane host ls\n\nCtrl-C ends all of it.\n\n", c.DatabaseURL(), c.Programs)
}
