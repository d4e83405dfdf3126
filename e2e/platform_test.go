// Package e2e tests the whole platform through its REST API: real Postgres and Redis, the real
// control plane and host agent as processes of their own, real VMs. Each platform has its own data
// folder, its own network namespace for the agent and its own database.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/stacktest"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// patience bounds every wait of these tests: VMs are emulated, and the machine may be loaded.
const patience = 2 * time.Minute

// binaries is the folder with the programs under test, built once with the race detector.
var binaries string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "wrenn-e2e-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	args := []string{"build", "-race", "-o", dir, "../cmd/..."}
	if os.Getenv(cyclesEnv) != "" || os.Getenv(chaosEnv) != "" { // which are for the long run
		args = slices.Delete(args, 1, 2)
	}
	build := exec.Command("go", args...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the programs under test:", err)
		return 1
	}
	binaries = dir
	return stacktest.Main(m)
}

// platform is one running Wrenn.
type platform struct {
	t      *testing.T
	dir    string // short, since unix sockets lie below it
	netns  string
	users  uint32 // the first that its VMMs run as
	env    []string
	client *wrenn.Client
	url    string
	key    string

	agent, control *program
}

// option changes how the agent is started.
type option func(env map[string]string)

func with(name, value string) option { return func(env map[string]string) { env[name] = value } }

func artefact(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "build", "guest", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		testlane.Missing(t, "build/guest/"+name+" is missing: run 'make images'")
	}
	return path
}

// start brings up a platform that ends, with all that it made, when the test does.
func start(t *testing.T, opts ...option) *platform {
	t.Helper()
	testlane.NeedRoot(t)
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		testlane.Missing(t, "qemu-system-x86_64 is not installed")
	}
	databases := stacktest.ForTest(t)
	dir, err := os.MkdirTemp("", "wrenn-e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeFolder(t, dir) })
	p := &platform{t: t, dir: dir, netns: filepath.Join(dir, "netns"), users: ownUsers()}
	if err := netns.Create(p.netns); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(p.netns); err != nil {
			t.Errorf("remove the network namespace: %v", err)
		}
	})
	settings := map[string]string{
		"WRENN_DATA": filepath.Join(dir, "data"), "WRENN_AGENT_LISTEN": "unix://" + filepath.Join(dir, "agent.sock"),
		"WRENN_KERNEL": artefact(t, "vmlinux"), "WRENN_IMAGES": artefact(t, "images"),
		"WRENN_NETNS": p.netns, "WRENN_DRIVER": "qemu", "WRENN_VOLUME_GIB": "8",
		"WRENN_OWNER_BASE": strconv.FormatUint(uint64(p.users), 10),
		"WRENN_GOLDEN_MIB": "0", // every sandbox boots, and no VM but theirs is on the machine; TestGolden is the other way

		"WRENN_DATABASE_URL": databases.PostgresURL, "WRENN_REDIS_URL": databases.RedisURL,
		"WRENN_AGENT": "unix://" + filepath.Join(dir, "agent.sock"), "WRENN_LISTEN": freeAddress(t),
	}
	for _, o := range opts {
		o(settings)
	}
	p.env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // else each program of the race detector ends a second late
	for name, value := range settings {
		p.env = append(p.env, name+"="+value)
	}
	p.url = "http://" + settings["WRENN_LISTEN"]
	t.Cleanup(p.end)
	p.startAgent()
	p.output("control-plane", "migrate", "up")
	p.control = p.spawn("control-plane", "serve")
	p.key = p.output("control-plane", "key", "create", "--name", "e2e")
	p.client, err = wrenn.NewClient(wrenn.Options{BaseURL: p.url, APIKey: p.key})
	if err != nil {
		t.Fatal(err)
	}
	p.waitReady()
	return p
}

// end stops everything, and fails the test if anything is left of it.
func (p *platform) end() {
	if p.control != nil {
		p.control.stop(syscall.SIGTERM)
	}
	if p.agent != nil {
		p.agent.stop(syscall.SIGTERM)
	}
	cmd := p.command("host-agent", "purge")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Errorf("purge: %v\n%s", err, out)
	}
	if left := p.leftovers(); left != "" {
		p.t.Errorf("after the end there is left:\n%s", left)
	}
	if p.t.Failed() {
		p.t.Logf("control plane:\n%s", p.control.tail())
		p.t.Logf("host agent:\n%s", p.agent.tail())
	}
}

func (p *platform) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(binaries, name), args...)
	cmd.Env = p.env
	return cmd
}

func (p *platform) output(name string, args ...string) string {
	p.t.Helper()
	out, err := p.command(name, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			p.t.Fatalf("%s %v: %v\n%s", name, args, err, exit.Stderr)
		}
		p.t.Fatalf("%s %v: %v", name, args, err)
	}
	return strings.TrimSpace(string(out))
}

func (p *platform) startAgent() { p.agent = p.spawn("host-agent", "serve") }

// waitReady waits until the control plane says that it and its host are ready.
func (p *platform) waitReady() {
	p.t.Helper()
	p.eventually("the platform is ready", func(ctx context.Context) error {
		ready, err := p.client.Ready(ctx)
		if err == nil && ready.Status != "ready" {
			err = fmt.Errorf("not ready: %+v", *ready)
		}
		return err
	})
}

// eventually tries until try succeeds, and fails the test when patience runs out.
func (p *platform) eventually(what string, try func(context.Context) error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("waited in vain until %s: %v", what, err)
		case <-tick.C:
		}
	}
}

func (p *platform) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p.t.Cleanup(cancel)
	return ctx
}

// create makes a sandbox or fails the test.
func (p *platform) create(template string) *wrenn.Sandbox {
	p.t.Helper()
	sb, err := p.client.CreateSandbox(p.context(), wrenn.CreateSandboxRequest{Template: template, MemoryMiB: 256})
	if err != nil {
		p.t.Fatalf("create a sandbox: %v", err)
	}
	return sb
}

// shell runs a command line in a sandbox, which must succeed, and returns what it wrote.
func (p *platform) shell(id, line string) string {
	p.t.Helper()
	result, err := p.client.Exec(p.context(), id, wrenn.ExecRequest{Shell: line})
	if err != nil {
		p.t.Fatalf("exec %q: %v", line, err)
	}
	if result.ExitCode != 0 {
		p.t.Fatalf("%q ended with %d: %s%s", line, result.ExitCode, result.Stdout, result.Stderr)
	}
	return result.Stdout
}

func (p *platform) destroy(id string) {
	p.t.Helper()
	sb, err := p.client.DestroySandbox(p.context(), id)
	if err != nil || sb.State != wrenn.Stopped {
		p.t.Fatalf("destroy %s: %+v, %v", id, sb, err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func removeFolder(t *testing.T, dir string) {
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("remove %s: %v", dir, err)
	}
}

// program is a process of the platform under test; what it writes is kept.
type program struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex // guards out
	out bytes.Buffer
}

func (p *platform) spawn(name string, args ...string) *program {
	p.t.Helper()
	prog := &program{cmd: p.command(name, args...), done: make(chan struct{})}
	prog.cmd.Stdout, prog.cmd.Stderr = prog, prog
	if err := prog.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = prog.cmd.Wait() // how it ended is in the output
		close(prog.done)
	}()
	return prog
}

func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *program) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.out.String()
	return text[max(0, len(text)-8000):]
}

// stop sends sig and waits for the end; what does not end is killed.
func (p *program) stop(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig) // it may have ended already
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}
