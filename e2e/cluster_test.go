package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/devcluster"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// cluster is a platform of several hosts, without the parts that a single one has.
type cluster struct {
	*devcluster.Cluster
	t       *testing.T
	clients []*wrenn.Client // one a replica
}

// hostsOfCluster and replicasOfCluster are what a cluster has.
const hostsOfCluster, replicasOfCluster = 3, 2

// startCluster brings up three hosts and two replicas, with nothing but the template minimal, and env for all of them. They end with the test.
func startCluster(t *testing.T, env ...string) *cluster {
	t.Helper()
	testlane.NeedRoot(t)
	dir, err := os.MkdirTemp("", "wrenn-e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeFolder(t, dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // the databases' user passes through
		t.Fatal(err)
	}
	images := filepath.Join(dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(artefact(t, "images"), "minimal"), filepath.Join(images, "minimal")); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t}
	c.Cluster, err = devcluster.Start(t.Context(), devcluster.Options{
		Dir: filepath.Join(dir, "c"), Programs: binaries, Kernel: artefact(t, "vmlinux"), Images: images, Hosts: hostsOfCluster, Replicas: replicasOfCluster,
		Listen: []string{"127.0.0.1:0", "127.0.0.1:0"}, Users: ownUsers(), Log: slog.New(slog.DiscardHandler),
		Env: append([]string{"WRENN_DRIVER=qemu", "WRENN_GOLDEN_MIB=0", "GORACE=atexit_sleep_ms=0"}, env...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.end(dir) })
	for i := range replicasOfCluster {
		client, err := wrenn.NewClient(wrenn.Options{BaseURL: c.URL(i), APIKey: c.Key})
		if err != nil {
			t.Fatal(err)
		}
		c.clients = append(c.clients, client)
	}
	return c
}

// end stops the cluster, and fails the test when anything is left of it.
func (c *cluster) end(dir string) {
	if c.t.Failed() {
		logs, _ := filepath.Glob(filepath.Join(c.Dir, "log", "*")) // the pattern is well formed
		for _, path := range logs {
			text, _ := os.ReadFile(path) // or there is nothing to show
			c.t.Logf("%s:\n%s", filepath.Base(path), text[max(0, len(text)-4000):])
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Stop(ctx); err != nil {
		c.t.Errorf("stop: %v", err)
	}
	one := &platform{t: c.t, dir: dir, users: c.Users}
	if left := append(one.processes(), one.mounts()...); len(left) > 0 {
		c.t.Errorf("after the end there is left:\n%s", strings.Join(left, "\n"))
	}
}

func (c *cluster) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c.t.Cleanup(cancel)
	return ctx
}

func (c *cluster) eventually(what string, try func(context.Context) error) {
	c.t.Helper()
	(&platform{t: c.t}).eventually(what, try)
}

// keeps tells whether a sandbox has the file that it was given.
func (c *cluster) keeps(ctx context.Context, client *wrenn.Client, id string) error {
	result, err := client.Exec(ctx, id, wrenn.ExecRequest{Shell: "cat /tmp/who"})
	if err == nil && strings.TrimSpace(result.Stdout) != id {
		err = fmt.Errorf("it says %q %q", result.Stdout, result.Stderr)
	}
	return err
}

// TestCluster: sandboxes spread over hosts that have joined; each replica reaches all of them; an agent and a replica are killed and nobody's sandbox ends; a host is drained, and
// what slept there goes on elsewhere.
func TestCluster(t *testing.T) {
	c := startCluster(t)
	var all []*wrenn.Sandbox
	on := map[string]string{}
	for i := range 3 {
		sb, err := c.clients[i%2].CreateSandbox(c.context(), wrenn.CreateSandboxRequest{Template: "minimal", MemoryMiB: 256})
		if err != nil {
			t.Fatal(err)
		}
		if result, err := c.clients[1-i%2].Exec(c.context(), sb.ID, wrenn.ExecRequest{Shell: "echo " + sb.ID + " > /tmp/who"}); err != nil || result.ExitCode != 0 {
			t.Fatalf("through the other replica: %+v, %v", result, err)
		}
		all, on[sb.HostID] = append(all, sb), sb.ID
	}
	if len(on) != 3 {
		t.Errorf("they are on %d hosts: %v", len(on), on)
	}

	agent := c.AgentPID(0)
	if err := syscall.Kill(agent, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, sb := range all {
		c.eventually(sb.ID+" goes on after an agent was killed", func(ctx context.Context) error { return c.keeps(ctx, c.clients[1], sb.ID) })
	}
	if err := syscall.Kill(c.ReplicaPID(0), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, sb := range all { // at once, at the other one
		if err := c.keeps(c.context(), c.clients[1], sb.ID); err != nil {
			t.Errorf("%s after a replica was killed: %v", sb.ID, err)
		}
	}
	c.eventually("the replica is back", func(ctx context.Context) error { return c.keeps(ctx, c.clients[0], all[0].ID) })

	drained := all[0]
	if _, err := c.clients[1].PauseSandbox(c.context(), drained.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tool(c.context(), "host", "drain", drained.HostID); err != nil {
		t.Fatal(err)
	}
	c.eventually("what slept has left", func(ctx context.Context) error {
		now, err := c.clients[1].GetSandbox(ctx, drained.ID)
		if err == nil && now.State != wrenn.Hibernated {
			err = fmt.Errorf("it is %s", now.State)
		}
		return err
	})
	if text, err := c.Tool(c.context(), "host", "rm", drained.HostID); err != nil {
		t.Errorf("removal of a host that holds nothing: %v, %s", err, text)
	}
	now, err := c.clients[0].ResumeSandbox(c.context(), drained.ID)
	if err != nil || now.HostID == drained.HostID || on[now.HostID] == "" {
		t.Fatalf("resume elsewhere: %+v, %v", now, err)
	}
	if err := c.keeps(c.context(), c.clients[1], drained.ID); err != nil {
		t.Errorf("after it has moved: %v", err)
	}
}
