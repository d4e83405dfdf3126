// Package devcluster runs a whole deployment on one machine, for development and tests: several replicas of the control plane and several host agents with real databases, each
// agent in a network namespace of its own, as on a machine of its own. The agents join with tokens and are reached over mutual TLS; they share a folder as object store.
//
// The replicas run in a namespace too, which has a link to each of the hosts'. All addresses in it are for documentation (RFC 5737). What clients reach is loopback of this
// machine. A part that dies is started again. All of it ends with Stop; what a cluster that was killed has left, the next Start in its folder removes.
package devcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/devstack"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// maxHosts is how many links find room in the network for documentation.
const maxHosts = 60

// readyLimit bounds the start of a part; the first start of a host makes a volume and copies images.
const readyLimit = 3 * time.Minute

// Options of a cluster. All but Env are required.
type Options struct {
	Dir      string   // folder of all that is kept; its path must be short, as sockets lie below it
	Programs string   // folder of control-plane and host-agent
	Kernel   string   // guest kernel
	Images   string   // folder of template images
	Hosts    int      // how many
	Replicas int      // of the control plane
	Listen   []string // host:port on this machine for each replica; port 0 for a free one
	Users    uint32   // the first of the user ids of VMMs, of which each host has 1,024; no other agent of this machine may have them
	Env      []string // for all parts, beside the environment of this process
	Log      *slog.Logger
}

// Cluster is one that runs.
type Cluster struct {
	Options
	Key string // an API key

	unlock   func()
	stack    *devstack.Stack
	forwards []*forward
	replicas []*child.Keeper
	agents   []*child.Keeper
	failed   chan error

	mu   sync.Mutex // guards logs
	logs []*child.Log
}

// Start brings a cluster up and returns once all replicas reach all hosts. After an error nothing is left.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Hosts < 1 || o.Hosts > maxHosts || o.Replicas < 1 || len(o.Listen) != o.Replicas {
		return nil, fmt.Errorf("a cluster has 1 to %d hosts, and at least one replica, each with an address: not %d and %d with %d", maxHosts, o.Hosts, o.Replicas, len(o.Listen))
	}
	c := &Cluster{Options: o, failed: make(chan error, o.Hosts+o.Replicas+2)}
	err := c.start(ctx)
	if err != nil {
		return nil, errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) (err error) {
	for _, path := range []*string{&c.Dir, &c.Programs, &c.Kernel, &c.Images} { // parts work in folders of their own
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("find %s: %w", *path, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "log"), 0o711); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	if c.unlock, err = devstack.Lock(filepath.Join(c.Dir, "lock")); err != nil {
		return err
	}
	if err := c.sweep(ctx); err != nil {
		return fmt.Errorf("remove what an earlier cluster left: %w", err)
	}
	c.stack, err = devstack.Start(ctx, devstack.Options{
		Dir: filepath.Join(c.Dir, "databases"), Logger: c.Log, Cache: devstack.DefaultCache(), Failed: func(err error) { c.failed <- err },
	})
	if err != nil {
		return err
	}
	if err := c.link(); err != nil {
		return fmt.Errorf("make the network: %w", err)
	}
	if c.Key, err = c.Tool(ctx, "seed", "--key-file", filepath.Join(c.Dir, "dev-key")); err != nil {
		return err
	}
	if err := c.dropSpare(ctx); err != nil {
		return fmt.Errorf("drop hosts of an earlier cluster: %w", err)
	}
	for i := range c.Replicas {
		if err := c.startReplica(ctx, i); err != nil {
			return err
		}
	}
	g, hostCtx := errgroup.WithContext(ctx)
	c.agents = make([]*child.Keeper, c.Hosts)
	for i := range c.Hosts {
		g.Go(func() error { return c.startHost(hostCtx, i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	if err := child.Poll(limited, func() bool { return c.whole(limited) }); err != nil {
		return fmt.Errorf("wait until all replicas reach all hosts: %w", err)
	}
	return nil
}

// whole tells whether all replicas reach all hosts.
func (c *Cluster) whole(ctx context.Context) bool {
	all := fmt.Appendf(nil, "%d of %d can be reached", c.Hosts, c.Hosts)
	for i := range c.Replicas {
		if !answers(ctx, c.URL(i)+"/readyz", func(body []byte) bool { return bytes.Contains(body, all) }) {
			return false
		}
	}
	return true
}

// URL is where a replica is reached.
func (c *Cluster) URL(replica int) string { return "http://" + c.forwards[replica].address() }

// AgentPID is the process of a host's agent.
func (c *Cluster) AgentPID(host int) int { return c.agents[host].PID() }

// ReplicaPID is the process of a replica.
func (c *Cluster) ReplicaPID(replica int) int { return c.replicas[replica].PID() }

// RedisPID is the process of Redis.
func (c *Cluster) RedisPID() int { return c.stack.RedisPID() }

// PostgresPID is the first process of Postgres.
func (c *Cluster) PostgresPID() int { return c.stack.PostgresPID() }

// HostID is the id that a host has joined as.
func (c *Cluster) HostID(host int) (string, error) {
	text, err := os.ReadFile(filepath.Join(c.HostData(host), "host-id"))
	if err != nil {
		return "", fmt.Errorf("read the host's id: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// HostData is the folder of a host's agent.
func (c *Cluster) HostData(host int) string { return filepath.Join(c.hostDir(host), "data") }

// HostUsers returns the first of the users of a host's VMMs, and how many there are.
func (c *Cluster) HostUsers(host int) (first, count uint32) {
	return c.Users + uint32(host)*usersOfHost, usersOfHost
}

// HostNetns is the path of a host's network namespace.
func (c *Cluster) HostNetns(host int) string { return filepath.Join(c.hostDir(host), "netns") }

// Objects is the folder that is the object store of all hosts.
func (c *Cluster) Objects() string { return filepath.Join(c.Dir, "objects") }

// Failed tells when a part cannot be kept running.
func (c *Cluster) Failed() <-chan error { return c.failed }

// DatabaseURL is where commands of the control plane find the cluster's database.
func (c *Cluster) DatabaseURL() string { return c.stack.PostgresURL }

// Stop ends all of it: sandboxes, processes, namespaces, mounts. What is kept is the folder.
func (c *Cluster) Stop(ctx context.Context) error {
	for _, f := range c.forwards {
		f.close()
	}
	for _, parts := range [][]*child.Keeper{c.replicas, c.agents} { // agents last: replicas finish what they do there
		var wg sync.WaitGroup
		for _, k := range parts {
			if k != nil {
				wg.Go(func() { k.Stop(ctx) })
			}
		}
		wg.Wait()
	}
	if c.unlock == nil { // somebody else's folder
		return nil
	}
	errs := []error{c.sweep(ctx)}
	if c.stack != nil {
		errs = append(errs, c.stack.Stop(ctx))
	}
	for _, l := range c.logs {
		errs = append(errs, l.Close())
	}
	c.unlock()
	return errors.Join(errs...)
}

// sweep removes every sandbox of the folder's hosts and what was made for them, and the namespaces.
func (c *Cluster) sweep(ctx context.Context) error {
	hosts, err := filepath.Glob(filepath.Join(c.Dir, "host-*"))
	if err != nil {
		return fmt.Errorf("list the hosts: %w", err)
	}
	errs := make([]error, len(hosts)+1)
	var wg sync.WaitGroup
	for i, dir := range hosts {
		wg.Go(func() { errs[i] = c.purge(ctx, dir) })
	}
	wg.Wait()
	errs[len(hosts)] = netns.Delete(c.netns())
	return errors.Join(errs...)
}

// netns is the path of the replicas' namespace.
func (c *Cluster) netns() string { return filepath.Join(c.Dir, "netns") }

// output is where a part's output goes.
func (c *Cluster) output(name string) (*child.Log, error) {
	log, err := child.OpenLog(filepath.Join(c.Dir, "log", name+".log"), child.LogLimit)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logs = append(c.logs, log)
	return log, nil
}

// env is the environment of a part. A key or URL in ours belongs to whichever service the user works with otherwise.
func (c *Cluster) env(extra ...string) []string {
	var own []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "WRENN_API_KEY=") && !strings.HasPrefix(e, "WRENN_URL=") {
			own = append(own, e)
		}
	}
	return append(append(own, c.Env...), extra...)
}
