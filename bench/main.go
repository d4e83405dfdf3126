// Command bench measures what SPECIFICATION.md promises of a running Wrenn and writes it to bench.json.
// It runs under `wrenn up -- bench`, which tells it where the API is (scripts/bench.sh does both).
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// result is one line of bench.json. The unit is part of the name as well, since names are all that a
// reader of SPECIFICATION.md sees.
type result struct {
	Name string  `json:"name"`
	Unit string  `json:"unit"`
	N    int     `json:"n"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	How  string  `json:"how"`
}

func main() {
	out := flag.String("o", "build/bench.json", "file for the results")
	guest := flag.String("guest", "build/guest", "folder of the guest's kernel and images")
	envd := flag.String("envd", "bin/envd", "the guest agent's binary")
	rounds := flag.Int("rounds", 15, "creates to measure")
	execs := flag.Int("execs", 100, "execs to measure")
	transfers := flag.Int("transfers", 5, "transfers to measure, each way")
	transferMiB := flag.Int64("transfer-mib", 512, "size of a transfer")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := bench{guest: *guest, rounds: *rounds, execs: *execs, transfers: *transfers, transferSize: *transferMiB << 20}
	if err := b.run(ctx, *envd, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	guest                    string
	rounds, execs, transfers int
	transferSize             int64 // in bytes
	client                   *wrenn.Client
	results                  []result
}

func (b *bench) run(ctx context.Context, envd, out string) (err error) {
	b.client, err = wrenn.NewClient(wrenn.Options{BaseURL: os.Getenv("WRENN_URL"), APIKey: os.Getenv("WRENN_API_KEY")})
	if err != nil {
		return err
	}
	for _, measure := range []func(context.Context) error{b.creates, b.execsAgainstEnvd, b.transfersAgainstChannel} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	if err := b.size(envd); err != nil {
		return err
	}
	return b.report(out)
}

// add notes samples, which it sorts.
func (b *bench) add(name, unit, how string, samples []float64) {
	slices.Sort(samples)
	at := func(q float64) float64 { return samples[min(len(samples)-1, int(q*float64(len(samples))))] }
	b.results = append(b.results, result{Name: name, Unit: unit, N: len(samples), P50: at(.5), P95: at(.95), P99: at(.99), How: how})
}

func (b *bench) size(envd string) error {
	info, err := os.Stat(envd)
	if err != nil {
		return fmt.Errorf("measure envd: %w", err)
	}
	b.add("envd_binary_mib", "MiB", "size of the stripped static binary", []float64{float64(info.Size()) / (1 << 20)})
	return nil
}

// report prints the table and merges the results into out by name: other benchmarks write there too.
func (b *bench) report(out string) error {
	all := map[string]result{}
	text, err := os.ReadFile(out)
	if err == nil {
		var old []result
		if err := json.Unmarshal(text, &old); err != nil {
			return fmt.Errorf("read %s: %w", out, err)
		}
		for _, r := range old {
			all[r.Name] = r
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tUNIT\tN\tP50\tP95\tP99\tHOW")
	for _, r := range b.results {
		all[r.Name] = r
		fmt.Fprintf(w, "%s\t%s\t%d\t%.1f\t%.1f\t%.1f\t%s\n", r.Name, r.Unit, r.N, r.P50, r.P95, r.P99, r.How)
	}
	merged := make([]result, 0, len(all))
	for _, r := range all {
		merged = append(merged, r)
	}
	slices.SortFunc(merged, func(x, y result) int { return cmp.Compare(x.Name, y.Name) })
	if text, err = json.MarshalIndent(merged, "", "  "); err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	return errors.Join(w.Flush(), os.MkdirAll(filepath.Dir(out), 0o755), os.WriteFile(out, append(text, '\n'), 0o644))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
