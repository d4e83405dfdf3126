// Package report is the form in which every benchmark states its results: a table for people, and a list in a
// JSON file into which the benchmarks merge theirs.
package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// Result is one line of the file. The unit is part of the name as well, since names are all that a
// reader of SPECIFICATION.md sees.
type Result struct {
	Name string  `json:"name"`
	Unit string  `json:"unit"`
	N    int     `json:"n"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	How  string  `json:"how"`
}

// New sums samples up, which it sorts. There must be one at least.
func New(name, unit, how string, samples []float64) Result {
	slices.Sort(samples)
	at := func(q float64) float64 { return samples[min(len(samples)-1, int(q*float64(len(samples))))] }
	return Result{Name: name, Unit: unit, N: len(samples), P50: at(.5), P95: at(.95), P99: at(.99), How: how}
}

// Print writes a table to standard output.
func Print(results []Result) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tUNIT\tN\tP50\tP95\tP99\tHOW")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%d\t%.1f\t%.1f\t%.1f\t%s\n", r.Name, r.Unit, r.N, r.P50, r.P95, r.P99, r.How)
	}
	return w.Flush()
}

// Merge writes results into the file out by name: other benchmarks write there too.
func Merge(out string, results []Result) error {
	all := map[string]Result{}
	text, err := os.ReadFile(out)
	if err == nil {
		var old []Result
		if err := json.Unmarshal(text, &old); err != nil {
			return fmt.Errorf("read %s: %w", out, err)
		}
		for _, r := range old {
			all[r.Name] = r
		}
	}
	for _, r := range results {
		all[r.Name] = r
	}
	merged := make([]Result, 0, len(all))
	for _, r := range all {
		merged = append(merged, r)
	}
	slices.SortFunc(merged, func(x, y Result) int { return cmp.Compare(x.Name, y.Name) })
	if text, err = json.MarshalIndent(merged, "", "  "); err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	return errors.Join(os.MkdirAll(filepath.Dir(out), 0o755), os.WriteFile(out, append(text, '\n'), 0o644))
}
