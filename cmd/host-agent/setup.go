package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/hostsetup"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// setupOptions say what `host-agent setup` does.
type setupOptions struct {
	check, undo bool
	with        []string
}

func newSetup(ctx context.Context, cfg *config.Agent) *cobra.Command {
	var o setupOptions
	cmd := &cobra.Command{
		Use: "setup", Short: "Prepare this host for sandboxes: modules, settings of the kernel, accounts, folders, a volume", Args: cobra.NoArgs,
		Long: `Prepares this host, and says of each item what it is, why, and what was there before. It can be repeated, and does
what is missing. What this machine does not allow is said and left out. Everything is recorded in /etc/wrenn/host-setup.json
before it is changed, and --undo takes it back.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return setup(ctx, *cfg, o, cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.check, "check", false, "change nothing: show what would be done; the exit status is 1 if there is anything")
	f.BoolVar(&o.undo, "undo", false, "take back what earlier set-ups changed, and nothing else")
	f.StringSliceVar(&o.with, "with", nil, "optional items that are wanted too")
	cmd.MarkFlagsMutuallyExclusive("check", "undo")
	return cmd
}

func setup(ctx context.Context, cfg config.Agent, o setupOptions, out io.Writer) error {
	if err := cfg.Check(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return models.Errorf(models.Forbidden, "the set-up of a host needs root")
	}
	data, err := filepath.Abs(cfg.Data)
	if err != nil {
		return fmt.Errorf("find the data folder: %w", err)
	}
	s, err := hostsetup.Open(hostsetup.Options{Data: data, Volume: cfg.Volume == "auto", VolumeGiB: cfg.VolumeGiB, With: o.with, SeccompFilter: cfg.SeccompFilter})
	if err != nil {
		return err
	}
	switch {
	case o.undo:
		return s.Undo(ctx, func(item string, step hostsetup.Step) { printUndone(out, item, step) })
	case o.check:
		return checkSetup(ctx, s, out)
	}
	return s.Apply(ctx, func(r hostsetup.Result) { printItem(out, r, "changed") })
}

func checkSetup(ctx context.Context, s *hostsetup.Setup, out io.Writer) error {
	results, err := s.Check(ctx)
	if err != nil {
		return err
	}
	for _, r := range results {
		printItem(out, r, "to do")
	}
	if !hostsetup.Prepared(results) {
		return models.Errorf(models.Precondition, "this host is not prepared in full").WithHint("host-agent setup does what is said to be to do")
	}
	return nil
}

// printItem tells of an item; with a reason where there is anything to decide or to know. Changes are called what they are.
func printItem(out io.Writer, r hostsetup.Result, changes string) {
	status := "ok"
	switch {
	case r.Skipped != "":
		status = "skipped"
	case r.Err != nil:
		status = "cannot"
	case r.Fix != "":
		status = "by hand"
	case len(r.Steps) > 0 && r.Good():
		status = changes
	case len(r.Steps) > 0:
		status = "in part"
	}
	fmt.Fprintf(out, "%-8s %s: %s\n", status, r.Name, r.What)
	detail := func(format string, args ...any) { fmt.Fprintf(out, "         "+format+"\n", args...) }
	if status != "ok" && (r.Skipped == "" || r.Optional != "") {
		detail("why: %s", r.Why)
	}
	if r.Optional != "" && r.Skipped != "" {
		detail("%s", r.Optional)
	}
	for _, line := range []string{r.Skipped, r.Found} {
		if line != "" {
			detail("%s", line)
		}
	}
	for _, s := range r.Steps {
		detail("%s", stepText(s))
	}
	for _, note := range r.Notes {
		detail("%s", note)
	}
	if r.Err != nil {
		detail("%v%s", r.Err, hintOf(r.Err))
	}
	if r.Fix != "" {
		detail("-> %s", r.Fix)
	}
}

func stepText(s hostsetup.Step) string {
	switch {
	case s.Err != nil:
		return fmt.Sprintf("%s: cannot be changed here: %v%s", s.What, s.Err, hintOf(s.Err))
	case s.Left != "":
		return fmt.Sprintf("%s: left: %s", s.What, s.Left)
	}
	return fmt.Sprintf("%s: %s -> %s", s.What, s.Before, s.After)
}

func hintOf(err error) string {
	if hint := models.AsError(err).Hint; hint != "" {
		return " (" + hint + ")"
	}
	return ""
}

func printUndone(out io.Writer, item string, step hostsetup.Step) {
	fmt.Fprintf(out, "%-13s %s\n", item, stepText(step))
}
