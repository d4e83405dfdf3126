package main

import (
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// atOnce is how many sandboxes one command deals with at the same time.
const atOnce = 8

func newRm(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rm SANDBOX...", Aliases: []string{"destroy"}, Short: "Destroy sandboxes, whatever their state",
		Long:              "Destroys sandboxes and prints the id of each. What fails does not keep the others; the exit status is that of the first failure.",
		ValidArgsFunction: a.sandboxIDs,
	}
	all := cmd.Flags().Bool("all", false, "all sandboxes of the account")
	force := cmd.Flags().BoolP("force", "f", false, "a sandbox that does not exist is no failure")
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		if *all == (len(ids) > 0) {
			return models.Errorf(models.Invalid, "name the sandboxes to destroy, or say --all")
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		if *all {
			for s, err := range client.AllSandboxes(cmd.Context(), wrenn.ListOptions{Limit: 200}) {
				if err != nil {
					return fmt.Errorf("list sandboxes: %w", err)
				}
				ids = append(ids, s.ID)
			}
		}
		return a.each("destroy", ids, func(id string) error {
			_, err := client.DestroySandbox(cmd.Context(), id)
			if *force && wrenn.CodeOf(err) == wrenn.NotFound {
				return nil
			}
			return err
		})
	}
	return cmd
}

// each does something with all, some at once, and reports them in the order given.
func (a *app) each(verb string, ids []string, do func(id string) error) error {
	failed := make([]error, len(ids))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, id := range ids {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(id); err != nil {
				failed[i] = fmt.Errorf("%s %s: %w", verb, id, err)
			}
		})
	}
	wg.Wait()
	status := 0
	for i, err := range failed {
		if err == nil {
			fmt.Fprintln(a.stdout, printable(ids[i]))
		} else if s := report(a.stderr, err); status == 0 {
			status = s
		}
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}
