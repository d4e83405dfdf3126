// Command bench measures what SPECIFICATION.md promises of a running Wrenn and writes it to bench.json.
// It runs under `wrenn up -- bench`, which tells it where the API is (scripts/bench.sh does both).
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
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func main() {
	out := flag.String("o", "build/bench.json", "file for the results")
	guest := flag.String("guest", "build/guest", "folder of the guest's kernel and images")
	envd := flag.String("envd", "bin/envd", "the guest agent's binary")
	rounds := flag.Int("rounds", 15, "creates to measure")
	execs := flag.Int("execs", 100, "execs to measure")
	transfers := flag.Int("transfers", 5, "transfers to measure, each way")
	golden := flag.Bool("golden", false, "measure creates from golden snapshots instead, of an agent that makes them")
	pool := flag.Bool("pool", false, "measure creates that are handed a VM instead, of an agent that restores them ahead")
	hibernate := flag.Bool("hibernate", false, "measure hibernations instead, of an agent that has an object store")
	transferMiB := flag.Int64("transfer-mib", 512, "size of a transfer")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := bench{guest: *guest, rounds: *rounds, execs: *execs, transfers: *transfers, transferSize: *transferMiB << 20}
	b.measures = []func(context.Context) error{b.creates, b.sleeps, b.forks, b.execsAgainstEnvd, b.transfersAgainstChannel, b.overheads, b.starts, b.size(*envd)}
	if *golden {
		b.measures = []func(context.Context) error{b.bareRestores, b.goldenCreates}
	}
	if *pool {
		b.measures = []func(context.Context) error{b.pooledCreates}
	}
	if *hibernate {
		b.measures = []func(context.Context) error{b.hibernations}
	}
	if err := b.run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	guest                    string
	rounds, execs, transfers int
	transferSize             int64 // in bytes
	client                   *wrenn.Client
	results                  []report.Result
	measures                 []func(context.Context) error
}

func (b *bench) run(ctx context.Context, out string) (err error) {
	b.client, err = wrenn.NewClient(wrenn.Options{BaseURL: os.Getenv("WRENN_URL"), APIKey: os.Getenv("WRENN_API_KEY")})
	if err != nil {
		return err
	}
	for _, measure := range b.measures {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	return errors.Join(report.Print(b.results), report.Merge(out, b.results))
}

// add notes samples, which it sorts.
func (b *bench) add(name, unit, how string, samples []float64) {
	b.results = append(b.results, report.New(name, unit, how, samples))
}

func (b *bench) size(envd string) func(context.Context) error {
	return func(context.Context) error {
		info, err := os.Stat(envd)
		if err != nil {
			return fmt.Errorf("measure envd: %w", err)
		}
		b.add("envd_binary_mib", "MiB", "size of the stripped static binary", []float64{float64(info.Size()) / (1 << 20)})
		return nil
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// pause waits; an error says that ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
