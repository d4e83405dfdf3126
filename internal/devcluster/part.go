package devcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

const (
	stopGrace = 30 * time.Second
	starts    = 20   // in a row: what a part needs may be away for a minute
	tail      = 2048 // bytes of the log of a part that does not start
	// Each host has users of its own for its VMMs, one for each of the 1,024 /30s of its subnet.
	subnet, usersOfHost = "10.0.0.0/20", 1 << 10
	volumeGiB, poolMiB  = 8, 512
)

// controlEnv is the environment of the control plane's program.
func (c *Cluster) controlEnv(extra ...string) []string {
	return c.env(append([]string{"WRENN_DATABASE_URL=" + c.stack.PostgresURL, "WRENN_REDIS_URL=" + c.stack.RedisURL, "WRENN_AGENT=off", "WRENN_DRAIN_TIMEOUT=3s"}, extra...)...)
}

// Tool runs a command of the control plane's program and returns what it prints.
func (c *Cluster) Tool(ctx context.Context, args ...string) (string, error) {
	return run(ctx, filepath.Join(c.Programs, "control-plane"), c.controlEnv(), args...)
}

func run(ctx context.Context, program string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, said.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// startReplica starts a replica in the replicas' namespace, and forwards to it.
func (c *Cluster) startReplica(ctx context.Context, i int) error {
	address := "0.0.0.0:" + strconv.Itoa(replicaPort+i)
	forward, err := newForward(ctx, c.Listen[i], c.netns(), "127.0.0.1:"+strconv.Itoa(replicaPort+i))
	if err != nil {
		return err
	}
	c.forwards = append(c.forwards, forward)
	keeper, err := c.keep(ctx, fmt.Sprintf("control-plane-%d", i), child.Spec{
		// The process becomes the program.
		Path: "nsenter", Args: []string{"--net=" + c.netns(), filepath.Join(c.Programs, "control-plane"), "serve"}, Env: c.controlEnv("WRENN_LISTEN=" + address),
	}, func(ctx context.Context) bool { return answers(ctx, "http://"+forward.address()+"/healthz", nil) })
	if err == nil {
		c.replicas = append(c.replicas, keeper)
	}
	return err
}

func (c *Cluster) hostDir(i int) string { return filepath.Join(c.Dir, fmt.Sprintf("host-%d", i)) }

// hostEnv is the environment of a host's agent, given its folder.
func (c *Cluster) hostEnv(dir string, extra ...string) []string {
	number, _ := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "host-")) // it is one of ours
	_, address := ends(number)
	users, _ := c.HostUsers(number)
	return c.env(append([]string{
		"WRENN_DATA=" + filepath.Join(dir, "data"), "WRENN_NETNS=" + filepath.Join(dir, "netns"), "WRENN_AGENT_LISTEN=" + address + ":" + strconv.Itoa(agentPort),
		"WRENN_KERNEL=" + c.Kernel, "WRENN_IMAGES=" + c.Images, "WRENN_OBJECTS=" + c.Objects(),
		"WRENN_SUBNET=" + subnet, "WRENN_OWNER_BASE=" + strconv.FormatUint(uint64(users), 10), "WRENN_CGROUP=" + fmt.Sprintf("wrenn.slice/cluster-%d", number),
		"WRENN_VOLUME_GIB=" + strconv.Itoa(volumeGiB), "WRENN_POOL_MIB=" + strconv.Itoa(poolMiB),
	}, extra...)...)
}

// startHost lets a host join and waits until a replica reaches it.
func (c *Cluster) startHost(ctx context.Context, i int) error {
	token, err := c.hostToken(ctx, i)
	if err != nil {
		return err
	}
	replicas, _ := ends(i)
	c.agents[i], err = c.keep(ctx, fmt.Sprintf("host-agent-%d", i), child.Spec{
		Path: filepath.Join(c.Programs, "host-agent"), Args: []string{"serve"},
		Env: c.hostEnv(c.hostDir(i), "WRENN_JOIN=http://"+replicas+":"+strconv.Itoa(replicaPort), "WRENN_HOST_TOKEN="+token),
	}, func(ctx context.Context) bool { return c.reached(ctx, i) })
	return err
}

// hostToken makes a token for a host: one that has been here before joins as itself.
func (c *Cluster) hostToken(ctx context.Context, i int) (string, error) {
	args := []string{"host", "token"}
	known, err := os.ReadFile(filepath.Join(c.hostDir(i), "data", "host-id"))
	switch {
	case err == nil:
		args = append(args, "--host", strings.TrimSpace(string(known)))
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("read the host's id: %w", err)
	}
	return c.Tool(ctx, args...)
}

// reached tells whether a control plane has a host's agent connected.
func (c *Cluster) reached(ctx context.Context, i int) bool {
	known, err := os.ReadFile(filepath.Join(c.hostDir(i), "data", "host-id"))
	if err != nil {
		return false
	}
	text, err := c.Tool(ctx, "host", "ls", "--json")
	var hosts []struct{ ID, State string }
	if err != nil || json.Unmarshal([]byte(text), &hosts) != nil {
		return false
	}
	return slices.ContainsFunc(hosts, func(h struct{ ID, State string }) bool {
		return h.ID == strings.TrimSpace(string(known)) && h.State != "down"
	})
}

// answers tells whether a page is there, and as check wants it.
func answers(ctx context.Context, url string, check func([]byte) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK && (check == nil || check(body))
}

// keep starts a part, waits until it is ready, and starts it again whenever it ends.
func (c *Cluster) keep(ctx context.Context, name string, spec child.Spec, ready func(context.Context) bool) (*child.Keeper, error) {
	log, err := c.output(name)
	if err != nil {
		return nil, err
	}
	if spec.Dir, err = c.workDir(name); err != nil {
		return nil, err
	}
	spec.Stdout, spec.Stderr = log, log
	start := func(ctx context.Context) (*child.Process, error) {
		p, err := startPart(ctx, spec, ready)
		if err != nil {
			return nil, fmt.Errorf("the %s does not start: %w\n%s", name, err, log.Tail(tail))
		}
		return p, nil
	}
	stop := []child.Step{{Signal: syscall.SIGTERM, Grace: stopGrace}}
	return child.Keep(ctx, name, start, child.Policy{Logger: c.Log, Stop: stop, MaxQuickDeaths: starts, GaveUp: func(err error) { c.failed <- err }})
}

// workDir is the folder in which a part works, by which it is known after a cluster was killed.
func (c *Cluster) workDir(name string) (string, error) {
	dir := filepath.Join(c.Dir, "run", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the folder of %s: %w", name, err)
	}
	return dir, nil
}

func startPart(ctx context.Context, spec child.Spec, ready func(context.Context) bool) (*child.Process, error) {
	proc, err := child.Start(spec)
	if err != nil {
		return nil, err
	}
	if err = os.WriteFile(filepath.Join(spec.Dir, "pid"), []byte(strconv.Itoa(proc.PID())), 0o600); err == nil {
		limited, cancel := context.WithTimeout(ctx, readyLimit)
		defer cancel()
		if err = proc.WaitReady(limited, ready); err == nil {
			return proc, nil
		}
	}
	proc.Stop(context.WithoutCancel(ctx), child.Step{Signal: syscall.SIGTERM, Grace: stopGrace})
	return nil, err
}

// dropSpare removes the hosts that an earlier cluster in the folder had and this one has not.
func (c *Cluster) dropSpare(ctx context.Context) error {
	for i := c.Hosts; i < maxHosts; i++ {
		known, err := os.ReadFile(filepath.Join(c.hostDir(i), "data", "host-id"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the host's id: %w", err)
		}
		if _, err := c.Tool(ctx, "host", "rm", "--force", strings.TrimSpace(string(known))); err != nil {
			return err
		}
		if err := os.RemoveAll(c.hostDir(i)); err != nil {
			return fmt.Errorf("remove the host's folder: %w", err)
		}
	}
	return nil
}

// purge ends the agent of a host, if one was left, and removes its sandboxes and what was made for them.
func (c *Cluster) purge(ctx context.Context, dir string) error {
	name := "host-agent-" + strings.TrimPrefix(filepath.Base(dir), "host-")
	work := filepath.Join(c.Dir, "run", name)
	if err := child.EndLeftover(ctx, filepath.Join(work, "pid"), work, syscall.SIGTERM, syscall.SIGKILL); err != nil {
		return err
	}
	namespace := filepath.Join(dir, "netns")
	if _, err := os.Stat(filepath.Join(dir, "data")); err != nil {
		return netns.Delete(namespace) // no agent was ever there
	}
	if err := netns.Create(namespace); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := run(ctx, filepath.Join(c.Programs, "host-agent"), c.hostEnv(dir), "purge"); err != nil {
		return err
	}
	return netns.Delete(namespace)
}
