package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// states are all that a sandbox can be in.
var states = []wrenn.State{
	wrenn.Pending, wrenn.Starting, wrenn.Running, wrenn.Pausing, wrenn.Paused, wrenn.Resuming, wrenn.Stopping, wrenn.Stopped, wrenn.Failed,
	wrenn.Hibernating, wrenn.Hibernated,
}

func newLs(a *app) *cobra.Command {
	var opts wrenn.ListOptions
	var only []string
	cmd := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List sandboxes, newest first", Args: cobra.NoArgs}
	f := cmd.Flags()
	all := f.BoolP("all", "a", false, "destroyed sandboxes too")
	quiet := f.BoolP("quiet", "q", false, "print ids only")
	f.StringSliceVar(&only, "state", nil, "only those in these states")
	f.StringVar(&opts.Template, "template", "", "only those of this template")
	f.StringToStringVar(&opts.Metadata, "metadata", nil, "only those with these labels (KEY=VALUE)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkForm(*quiet, *asJSON); err != nil {
			return err
		}
		for _, s := range only {
			if !slices.Contains(states, wrenn.State(s)) {
				return models.Errorf(models.Invalid, "%q is no state", s).WithHint("states: %v", states)
			}
			opts.States = append(opts.States, wrenn.State(s))
		}
		if *all && len(only) == 0 {
			opts.States = states
		}
		opts.Limit = 200
		return a.list(cmd, opts, *quiet, *asJSON)
	}
	return cmd
}

func (a *app) list(cmd *cobra.Command, opts wrenn.ListOptions, quiet, asJSON bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	list, err := gather(client.AllSandboxes(cmd.Context(), opts))
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	return printList(a.stdout, list, quiet, asJSON, []string{"ID", "NAME", "TEMPLATE", "STATE", "VCPUS", "MEMORY MIB", "AGE"}, func(s wrenn.Sandbox) []string {
		return []string{s.ID, s.Name, s.Template, string(s.State), strconv.Itoa(s.VCPUs), strconv.Itoa(s.MemoryMiB), age(s.CreatedAt, time.Now())}
	})
}

// checkForm refuses two forms of a list at once.
func checkForm(quiet, asJSON bool) error {
	if quiet && asJSON {
		return models.Errorf(models.Invalid, "--json and --quiet exclude each other")
	}
	return nil
}

// listing makes cmd print all of a list.
func listing[T any](a *app, cmd *cobra.Command, what string, all func(*wrenn.Client, context.Context) iter.Seq2[T, error], header []string, row func(T) []string) *cobra.Command {
	quiet := cmd.Flags().BoolP("quiet", "q", false, "print ids only")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkForm(*quiet, *asJSON); err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		list, err := gather(all(client, cmd.Context()))
		if err != nil {
			return fmt.Errorf("list %s: %w", what, err)
		}
		return printList(a.stdout, list, *quiet, *asJSON, header, row)
	}
	return cmd
}

// printMade prints what do makes: as JSON, or its words.
func printMade[T any](a *app, asJSON bool, what string, words func(*T) []string, do func(*wrenn.Client) (*T, error)) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	made, err := do(client)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if asJSON {
		return printJSON(a.stdout, made)
	}
	_, err = fmt.Fprintln(a.stdout, printable(strings.Join(words(made), " ")))
	return err
}

// gather reads all pages of a list, which is never nil.
func gather[T any](all iter.Seq2[T, error]) ([]T, error) {
	list := []T{}
	for item, err := range all {
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, nil
}

// printList prints what row makes of each item, the first column alone if quiet, or the items as JSON.
func printList[T any](w io.Writer, list []T, quiet, asJSON bool, header []string, row func(T) []string) error {
	if asJSON {
		return printJSON(w, list)
	}
	rows := make([][]string, len(list))
	for i, item := range list {
		rows[i] = row(item)
	}
	if quiet {
		for _, r := range rows {
			fmt.Fprintln(w, printable(r[0]))
		}
		return nil
	}
	return printTable(w, header, rows)
}
