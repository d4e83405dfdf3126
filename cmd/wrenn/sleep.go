package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newPause(a *app) *cobra.Command {
	return a.newSleep(&cobra.Command{
		Use: "pause SANDBOX...", Short: "Put sandboxes to sleep: their memory goes to disk, and all goes on where it was with the next resume",
		Long: `Puts sandboxes to sleep and prints the id of each. Memory and processors are given back; disk and address are kept. What runs in a
sandbox, and its connections, go on with the next resume. What fails does not keep the others; the exit status is that of the first failure.`,
	}, "pause", (*wrenn.Client).PauseSandbox)
}

func newResume(a *app) *cobra.Command {
	var wait time.Duration
	cmd := a.newSleep(&cobra.Command{
		Use: "resume SANDBOX...", Short: "Have paused and hibernated sandboxes go on",
		Long: `Has paused and hibernated sandboxes go on and prints the id of each once it can be used. Every request to one does so too, unless it was created with
--auto-resume=false. "wrenn info" shows what was renewed. What fails does not keep the others; the exit status is that of the first failure.`,
	}, "resume", func(c *wrenn.Client, ctx context.Context, id string) (*wrenn.Sandbox, error) {
		return c.ResumeSandboxWithin(ctx, id, wait)
	})
	cmd.Flags().DurationVar(&wait, "wait", 0, waitHelp)
	return cmd
}

func newHibernate(a *app) *cobra.Command {
	return a.newSleep(&cobra.Command{
		Use: "hibernate SANDBOX...", Short: "Put sandboxes into the object store: they take no room on any host until the next resume",
		Long: `Puts paused and running sandboxes into the object store and prints the id of each once its host holds nothing of it. They go on with the next
resume, or request to them, on any host that has their template, with another address. What fails does not keep the others; the exit status is that of the first failure.`,
	}, "hibernate", (*wrenn.Client).HibernateSandbox)
}

func (a *app) newSleep(cmd *cobra.Command, verb string, do func(*wrenn.Client, context.Context, string) (*wrenn.Sandbox, error)) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = cobra.MinimumNArgs(1), a.sandboxIDs
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		return a.each(verb, ids, func(id string) error {
			_, err := do(client, cmd.Context(), id)
			return err
		})
	}
	return cmd
}
