package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// drain is how long requests under way may hold up the control plane's end: a developer's Ctrl-C is impatient.
const drain = 3 * time.Second

// stopSteps end a server of ours.
func (p *platform) stopSteps() []child.Step {
	return []child.Step{{Signal: syscall.SIGTERM, Grace: p.stopTimeout}}
}

func (p *platform) controlPlaneSpec(args ...string) child.Spec {
	return child.Spec{Path: p.controlPlaneProgram, Args: args, Env: p.env(
		"WRENN_DATABASE_URL="+p.postgres, "WRENN_REDIS_URL="+p.redis, "WRENN_LISTEN="+p.listen,
		"WRENN_AGENT=unix://"+p.socket(), "WRENN_DRAIN_TIMEOUT="+drain.String(),
	)}
}

func (p *platform) agentSpec(command string, flags []string) child.Spec {
	return child.Spec{Path: p.agentProgram, Args: append([]string{command}, flags...), Env: p.env()}
}

// agentFlags are the host agent's settings. Those which sandboxes that run depend on come from
// the state of the platform that started them.
func (p *platform) agentFlags() []string {
	flags := []string{
		"--data", p.data, "--listen", "unix://" + p.socket(), "--kernel", p.kernel, "--images", p.images,
		"--driver", p.driver, "--volume", p.volume, "--subnet", p.subnet,
	}
	if p.namespace != "" {
		flags = append(flags, "--netns", p.namespace)
	}
	if p.objects != "" {
		flags = append(flags, "--objects", p.objects)
	}
	return flags
}

func (p *platform) socket() string { return filepath.Join(p.data, "agent.sock") }

// env is our environment for a part of the platform. A key or URL in it belongs to whichever
// service the user works with otherwise.
func (p *platform) env(extra ...string) []string {
	own := slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "WRENN_API_KEY=") || strings.HasPrefix(e, "WRENN_URL=")
	})
	return append(own, extra...)
}

// apiReady asks the control plane whether sandboxes can be made.
func (p *platform) apiReady(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := p.client.Ready(ctx)
	return err == nil && r.Status == "ready"
}

// agentReady finds out whether the host agent listens.
func (p *platform) agentReady(ctx context.Context) bool {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", p.socket())
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// keepRunning starts a part, waits until it is ready, and starts it again whenever it ends.
func (p *platform) keepRunning(ctx context.Context, name string, spec child.Spec, ready func(context.Context) bool) (*child.Keeper, error) {
	log, err := child.OpenLog(p.logPath(name), child.LogLimit)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.logs = append(p.logs, log)
	p.mu.Unlock()
	if spec.Dir, err = p.workDir(name); err != nil {
		return nil, err
	}
	out := &lineWriter{p: p, prefix: name, log: log, quiet: p.quiet}
	spec.Stdout, spec.Stderr = out, out
	start := func(ctx context.Context) (*child.Process, error) { return p.startService(ctx, name, spec, log, ready) }
	return child.Keep(ctx, name, start, child.Policy{Logger: p.log, Stop: p.stopSteps(), GaveUp: p.partFailed})
}

func (p *platform) startService(ctx context.Context, name string, spec child.Spec, log *child.Log, ready func(context.Context) bool) (*child.Process, error) {
	proc, err := child.Start(spec)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(spec.Dir, "pid"), []byte(strconv.Itoa(proc.PID())), 0o600); err != nil {
		proc.Stop(ctx)
		return nil, fmt.Errorf("note the process of %s: %w", name, err)
	}
	readyCtx, cancel := context.WithTimeout(ctx, p.readyTimeout)
	defer cancel()
	err = proc.WaitReady(readyCtx, ready)
	if err == nil {
		return proc, nil
	}
	proc.Stop(context.WithoutCancel(ctx), p.stopSteps()...)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if readyCtx.Err() != nil {
		err = fmt.Errorf("it is not ready after %s", p.readyTimeout)
	}
	return nil, models.Errorf(models.Unavailable, "the %s does not start: %v\n%s", name, err, lastLines(log.Tail(2048), 5)).
		WithHint("all it said is in %s", p.logPath(name))
}

func (p *platform) logPath(name string) string { return filepath.Join(p.data, "log", name+".log") }

// workDir is the working directory of a part, its alone, by which a later platform recognises it.
func (p *platform) workDir(name string) (string, error) {
	dir := filepath.Join(p.data, "up", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the folder of %s: %w", name, err)
	}
	return dir, nil
}

// runTool runs a program to its end and returns what it wrote to its standard output; what it
// said otherwise becomes the error.
func (p *platform) runTool(ctx context.Context, spec child.Spec) (string, error) {
	var out, said bytes.Buffer
	spec.Stdout, spec.Stderr = &out, &said
	proc, err := child.Start(spec)
	if err != nil {
		return "", err
	}
	select {
	case <-proc.Done():
	case <-ctx.Done():
		proc.Stop(context.WithoutCancel(ctx), p.stopSteps()...)
		return "", ctx.Err()
	}
	if err := proc.Err(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", filepath.Base(spec.Path), err, lastLines(said.String(), 5))
	}
	return out.String(), nil
}

func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// maxLine is the longest line of a log that is shown in one piece, in bytes.
const maxLine = 8 << 10

// lineWriter shows the lines of one part under its name, and keeps them in its log.
type lineWriter struct {
	p      *platform
	prefix string
	log    *child.Log // nil for none
	quiet  bool       // show nothing
	rest   []byte     // of a line that is not complete
}

// Write never fails: a part must not stop because nobody listens.
func (w *lineWriter) Write(b []byte) (int, error) {
	if w.log != nil {
		_, _ = w.log.Write(b) // never fails
	}
	if w.quiet {
		return len(b), nil
	}
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	w.rest = append(w.rest, b...)
	for {
		end := bytes.IndexByte(w.rest, '\n')
		if end < 0 && len(w.rest) < maxLine {
			return len(b), nil
		}
		line := w.rest
		if end >= 0 {
			line = w.rest[:end]
		}
		fmt.Fprintf(w.p.stderr, "%s | %s\n", w.prefix, plainText(string(line)))
		w.rest = w.rest[min(len(line)+1, len(w.rest)):]
	}
}
