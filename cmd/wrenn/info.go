package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newInfo(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "info SANDBOX", Short: "Show all about a sandbox: what it is, what its start took, what happened to it",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.sandboxIDs,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		s, err := client.GetSandbox(cmd.Context(), args[0])
		if err != nil {
			return fmt.Errorf("look up sandbox: %w", err)
		}
		events, err := client.Events(cmd.Context(), args[0])
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if *asJSON {
			return printJSON(a.stdout, struct {
				Sandbox *wrenn.Sandbox `json:"sandbox"`
				Events  []wrenn.Event  `json:"events"`
			}{s, events})
		}
		return a.printInfo(s, events)
	}
	return cmd
}

func (a *app) printInfo(s *wrenn.Sandbox, events []wrenn.Event) error {
	rows := make([][]string, 0, 9+len(s.Metadata)+len(s.Timings))
	rows = append(rows, [][]string{
		{"name", s.Name}, {"template", s.Template}, {"state", string(s.State)}, {"reason", s.StateReason},
		{"size", fmt.Sprintf("%d vCPU, %d MiB memory, %d MiB disk", s.VCPUs, s.MemoryMiB, s.DiskMiB)},
		{"host", s.HostID}, {"created", stamp(s.CreatedAt)}, {"started", stamp(s.StartedAt)}, {"updated", stamp(s.UpdatedAt)},
	}...)
	for _, origin := range [][]string{{"forked from", s.ParentID}, {"snapshot", s.SnapshotID}} {
		if origin[1] != "" {
			rows = append(rows, origin)
		}
	}
	rows = append(rows, lifecycleRows(s)...)
	for _, key := range slices.Sorted(maps.Keys(s.Metadata)) {
		rows = append(rows, []string{"metadata " + key, s.Metadata[key]})
	}
	for _, t := range s.Timings {
		rows = append(rows, []string{"step " + t.Step, strconv.FormatFloat(t.Milliseconds, 'f', 1, 64) + " ms"})
	}
	if s.Resumed != nil {
		rows = append(rows, []string{"resumed", stamp(s.Resumed.At)})
		for _, step := range s.Resumed.Steps {
			rows = append(rows, []string{"renewed " + step.Step, renewal(step)})
		}
	}
	if s.Archive != nil {
		rows = append(rows, []string{"sent to be stored", bytesText(float64(s.Archive.SentBytes))})
	}
	if err := printTable(a.stdout, []string{"id", s.ID}, rows); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	rows = make([][]string, len(events))
	for i, e := range events {
		rows[i] = []string{stamp(e.At), string(e.From), string(e.To), e.Actor, e.Reason}
	}
	return printTable(a.stdout, []string{"AT", "FROM", "TO", "BY", "REASON"}, rows)
}

func renewal(s wrenn.CertificateStep) string {
	took := strconv.FormatFloat(s.Milliseconds, 'f', 1, 64) + " ms"
	switch {
	case s.Kept:
		return "kept"
	case s.Output != "":
		return took + ": " + s.Output
	}
	return took
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format("2006-01-02 15:04:05.000 MST")
}
