package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newEvents(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "events [SANDBOX]", Short: "Show what has become of sandboxes, the last thing last, and follow what becomes of them",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.sandboxIDs,
	}
	f := cmd.Flags()
	follow := f.BoolP("follow", "f", false, "go on with what happens, until Ctrl-C")
	lines := f.IntP("lines", "n", 50, "at most so many that have happened")
	asJSON := f.Bool("json", false, "print each event as a line of JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *lines < 0 {
			return models.Errorf(models.Invalid, "--lines must not be negative")
		}
		sandbox := ""
		if len(args) > 0 {
			sandbox = args[0]
		}
		return a.events(cmd.Context(), sandbox, *lines, *follow, *asJSON)
	}
	return cmd
}

func (a *app) events(ctx context.Context, sandbox string, lines int, follow, asJSON bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	past, err := lastEvents(ctx, client, sandbox, lines)
	if err != nil {
		return fmt.Errorf("list events: %w", err)
	}
	opts := wrenn.FollowOptions{Sandbox: sandbox}
	for _, e := range slices.Backward(past) {
		if err := a.printEvent(e, asJSON); err != nil {
			return err
		}
		opts.After = e.ID
	}
	if !follow {
		return nil
	}
	for e, err := range client.FollowEvents(ctx, opts) {
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err == nil {
			err = a.printEvent(e, asJSON)
		}
		if err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
	}
	return nil
}

// lastEvents returns up to most events, newest first.
func lastEvents(ctx context.Context, client *wrenn.Client, sandbox string, most int) ([]wrenn.Event, error) {
	var past []wrenn.Event
	if most == 0 {
		return past, nil
	}
	for e, err := range client.AllEvents(ctx, wrenn.EventOptions{Sandbox: sandbox, Limit: min(most, 200)}) {
		if err != nil {
			return nil, err
		}
		if past = append(past, e); len(past) == most {
			break
		}
	}
	return past, nil
}

func (a *app) printEvent(e wrenn.Event, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(a.stdout).Encode(e)
	}
	text := fmt.Sprintf("%s  %s  %-11s  %s", stamp(e.At), e.SandboxID, e.To, e.Actor)
	if e.Reason != "" {
		text += "  " + e.Reason
	}
	_, err := fmt.Fprintln(a.stdout, printable(text))
	return err
}
