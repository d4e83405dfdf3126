// Command controlplane measures the control plane alone: the real program with real PostgreSQL and Redis, before simulated hosts that answer at once and have no VMs. Load, hosts
// and servers share the machine. Rates of requests are not limited. It merges its results into bench.json.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/bench/report"
)

func main() {
	var b bench
	out := flag.String("o", "build/bench.json", "file for the results")
	flag.StringVar(&b.program, "control-plane", "bin/control-plane", "the control plane's binary")
	flag.DurationVar(&b.load, "load", 10*time.Second, "how long each load of creates lasts")
	flag.IntVar(&b.rounds, "rounds", 200, "lists, gets and placements to measure")
	flag.IntVar(&b.sandboxes, "sandboxes", 100_000, "that are in the large table, on a hundredth as many hosts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench controlplane:", err)
		os.Exit(1)
	}
}

// bench is what is asked for, and the results.
type bench struct {
	program   string
	load      time.Duration
	rounds    int
	sandboxes int
	results   []report.Result
}

func (b *bench) run(ctx context.Context, out string) error {
	for _, measure := range []func(context.Context) error{b.creates, b.small, b.large} {
		if err := measure(ctx); err != nil {
			return err
		}
		if err := errors.Join(report.Print(b.results), report.Merge(out, b.results)); err != nil {
			return err
		}
		b.results = nil
	}
	return nil
}

func (b *bench) add(name, unit, how string, samples ...float64) {
	b.results = append(b.results, report.New(name, unit, how, samples))
}

// onStage runs measure on a control plane with its own databases and hosts.
func (b *bench) onStage(ctx context.Context, p plan, measure func(context.Context, *stage) error) (err error) {
	s := &stage{plan: p, program: b.program}
	defer func() { err = errors.Join(err, s.end(context.WithoutCancel(ctx))) }()
	if err := s.start(ctx); err != nil {
		return err
	}
	return measure(ctx, s)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
