package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/devstack"
	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// readyLimit bounds the start of a control plane with a thousand hosts.
const readyLimit = 2 * time.Minute

// plan is what there is on a stage.
type plan struct {
	hosts     int
	accounts  int
	sandboxes int // that run already, all of the first account
}

// stage is a control plane with its own databases, hosts and accounts.
type stage struct {
	plan
	program string
	dir     string
	stack   *devstack.Stack
	owner   owner
	hosts   []*hostsim.Host
	keys    []string // one an account
	account id.Account
	url     string
	headers func() []string // of each create; nil for none
	log     bytes.Buffer
	process *exec.Cmd
}

// owner is a hostsim.Owner that is no test. What fails here is a fault of the machine, and ends the program with its stack.
type owner struct{ ends []func() }

// Helper implements hostsim.Owner.
func (*owner) Helper() {}

// Cleanup implements hostsim.Owner.
func (o *owner) Cleanup(end func()) { o.ends = append(o.ends, end) }

// Fatal implements hostsim.Owner.
func (*owner) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// Fatalf implements hostsim.Owner.
func (*owner) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (o *owner) end() {
	for i := len(o.ends) - 1; i >= 0; i-- {
		o.ends[i]()
	}
}

func (s *stage) start(ctx context.Context) (err error) {
	if s.dir, err = os.MkdirTemp("/var/tmp", "wrenn-bench-cp."); err != nil {
		return err
	}
	if err := os.Chmod(s.dir, 0o711); err != nil { // the database runs as a user of its own
		return err
	}
	// Commits are synced to the disk, as in production.
	if s.stack, err = devstack.Start(ctx, devstack.Options{Dir: s.dir, Cache: devstack.DefaultCache()}); err != nil {
		return err
	}
	if _, err := db.MigrateUp(ctx, s.stack.PostgresURL); err != nil {
		return err
	}
	if err := s.makeKeys(ctx); err != nil {
		return err
	}
	s.makeHosts()
	if s.sandboxes > 0 {
		if err := s.populate(ctx); err != nil {
			return err
		}
	}
	if err := s.serve(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	if err := child.Poll(limited, func() bool { return s.whole(limited) }); err != nil {
		return fmt.Errorf("wait until the control plane reaches its hosts: %w; its log ends: %s", err, tail(s.log.String()))
	}
	return nil
}

func tail(text string) string { return text[max(0, len(text)-2048):] }

func (s *stage) makeKeys(ctx context.Context) error {
	store, err := db.Open(ctx, s.stack.PostgresURL)
	if err != nil {
		return err
	}
	defer store.Close()
	for i := range s.accounts {
		name, secret := fmt.Sprintf("account-%d", i), auth.NewSecret()
		if _, err := auth.Keep(ctx, store, name, "bench", secret, []auth.Scope{auth.Admin}, time.Time{}, db.By{Actor: "operator", Operation: "bench"}); err != nil {
			return err
		}
		s.keys = append(s.keys, string(secret))
	}
	s.account, err = store.AccountNamed(ctx, "account-0")
	return err
}

// makeHosts makes hosts that are never full.
func (s *stage) makeHosts() {
	for i := range s.plan.hosts {
		h := hostsim.Start(&s.owner)
		h.Describe(func(info *pb.GetHostInfoResponse) {
			info.HostId, info.Vcpus, info.MemoryMib, info.DiskMib = string(hostID(i)), 1<<20, 1<<30, 1<<40
		})
		s.hosts = append(s.hosts, h)
	}
}

func hostID(i int) id.Host { return id.Host(fmt.Sprintf("host-%08x", i+1)) }

// serve starts the control plane.
func (s *stage) serve(ctx context.Context) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	s.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	agents := make([]string, len(s.hosts))
	for i, h := range s.hosts {
		agents[i] = h.Address()
	}
	program, err := filepath.Abs(s.program)
	if err != nil {
		return err
	}
	s.process = exec.CommandContext(context.WithoutCancel(ctx), program, "serve", "--rate-limits", "off", "--listen", strings.TrimPrefix(s.url, "http://"))
	s.process.Env = append(os.Environ(), "WRENN_DATABASE_URL="+s.stack.PostgresURL, "WRENN_REDIS_URL="+s.stack.RedisURL, "WRENN_AGENT="+strings.Join(agents, ","))
	s.process.Stderr = &s.log
	return s.process.Start()
}

func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// whole tells whether the control plane reaches all hosts.
func (s *stage) whole(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return err == nil && bytes.Contains(body, fmt.Appendf(nil, "%d of %d can be reached", len(s.hosts), len(s.hosts)))
}

// end ends all that was started, as far as it was.
func (s *stage) end(ctx context.Context) error {
	var errs []error
	if s.process != nil && s.process.Process != nil {
		errs = append(errs, s.process.Process.Signal(syscall.SIGTERM), s.process.Wait())
	}
	s.owner.end()
	if s.stack != nil {
		errs = append(errs, s.stack.Stop(ctx))
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}
