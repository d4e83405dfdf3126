// Command envd measures a server of E2B's envd protocol, or two of them by turns, as a plain client over TCP:
// how long a process takes from start to exit, how fast output and files go through, and how much memory
// the server takes. It knows nothing of either server but the protocol.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/wrenn-sandbox/wrenn/bench/report"
)

// peerPrefix begins the names of the second target's results.
const peerPrefix = "peer_"

type options struct {
	execs, rounds  int
	stdout, file   int64 // MiB
	processes      int
	dir, out, envd string
	limit          time.Duration
	targets        [2]endpoint
}

func main() {
	var o options
	flag.IntVar(&o.execs, "execs", 200, "processes to time, of each kind")
	flag.IntVar(&o.rounds, "rounds", 3, "transfers to time, of each kind")
	flag.Int64Var(&o.stdout, "stdout-mib", 256, "size of an output")
	flag.Int64Var(&o.file, "file-mib", 1024, "size of a file")
	flag.IntVar(&o.processes, "processes", 100, "idle processes under which memory is read")
	flag.StringVar(&o.dir, "dir", "/var/tmp", "folder on the server for the file; needs its size once for each target")
	flag.StringVar(&o.out, "o", "build/bench.json", "file for the results")
	flag.StringVar(&o.envd, "envd", "bin/envd", "the envd that is started when there is no -target")
	flag.DurationVar(&o.limit, "limit", 20*time.Minute, "everything ends after this")
	for i, suffix := range []string{"", "2"} {
		t := &o.targets[i]
		flag.StringVar(&t.url, "target"+suffix, "", "URL of a server, as in http://host:port")
		flag.StringVar(&t.token, "token"+suffix, "", "its X-Access-Token")
		flag.StringVar(&t.user, "user"+suffix, "", "who the processes and files belong to there; empty: its default user")
		flag.IntVar(&t.pid, "pid"+suffix, 0, "its process, to read its memory; 0: the one that listens, if it is on this machine")
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-envd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	if o.targets[0].url == "" {
		own, err := startEnvd(ctx, o.envd)
		if err != nil {
			return err
		}
		defer own.end()
		o.targets[0].url = own.url
	}
	b := &bench{options: o}
	for _, e := range o.targets {
		if e.url != "" {
			b.servers = append(b.servers, newServer(e, o.dir))
		}
	}
	defer func() { err = errors.Join(err, b.clean(context.WithoutCancel(ctx))) }()
	for _, measure := range []func(context.Context) error{b.memory, b.execs, b.outputs, b.files} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	return b.finish()
}

// bench holds the samples of every server, by the name of what they measure.
type bench struct {
	options
	servers []*server
	kinds   []kind
}

type kind struct {
	name, unit, how string
	samples         [][]float64 // of each server
}

// byTurns calls measure n times for each server, one after the other and each first equally often, after
// warm calls that do not count, and notes what it returns.
func (b *bench) byTurns(k kind, warm, n int, measure func(*server) (float64, error)) error {
	k.samples = make([][]float64, len(b.servers))
	for i := range warm + n {
		for j := range b.servers {
			at := (i + j) % len(b.servers)
			sample, err := measure(b.servers[at])
			if err != nil {
				return fmt.Errorf("%s of %s: %w", k.name, b.servers[at].url, err)
			}
			if i >= warm {
				k.samples[at] = append(k.samples[at], sample)
			}
		}
	}
	b.kinds = append(b.kinds, k)
	return nil
}

// finish prints and saves the results.
func (b *bench) finish() error {
	var results []report.Result
	for at, server := range b.servers {
		for _, k := range b.kinds {
			if len(k.samples[at]) == 0 {
				continue
			}
			r := report.New(k.name, k.unit, k.how+", on "+server.url, k.samples[at])
			if at > 0 {
				r.Name = peerPrefix + r.Name
			}
			results = append(results, r)
		}
	}
	if len(b.servers) == 1 {
		return errors.Join(report.Print(results), report.Merge(b.out, results))
	}
	return errors.Join(b.compare(), report.Merge(b.out, results))
}

// compare prints the medians side by side. The ratio is that of the first to the second.
func (b *bench) compare() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "NAME\tUNIT\tN\t%s\t%s\tRATIO\tP95\tP95\tHOW\n", b.servers[0].url, b.servers[1].url)
	for _, k := range b.kinds {
		first, second := k.samples[0], k.samples[1]
		fmt.Fprintf(w, "%s\t%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%s\n", k.name, k.unit, cmp.Or(len(first), len(second)),
			quantile(first, .5), quantile(second, .5), quantile(first, .5)/quantile(second, .5),
			quantile(first, .95), quantile(second, .95), k.how)
	}
	return w.Flush()
}

// quantile is NaN without samples: memory of a server elsewhere.
func quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	slices.Sort(samples)
	return samples[min(len(samples)-1, int(q*float64(len(samples))))]
}

// clean removes what the measurements left on the servers.
func (b *bench) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var failed []error
	for _, s := range b.servers {
		if s.wrote {
			_, err := s.exec(ctx, s.binary, "/bin/rm", "-f", s.path)
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
