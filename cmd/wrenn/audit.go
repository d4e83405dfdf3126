package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newAudit(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Show what was done in the account, by whom, newest first", Args: cobra.NoArgs,
		Example: "  wrenn audit --target sb-5f0c1d2e\n  wrenn audit --action sandbox.destroy --last 24h",
	}
	about := auditTexts{"this key's id, operator or system", "sandbox.create", "this sandbox, snapshot or key", "look at the audit log"}
	return auditing(a, cmd, about, func(ctx context.Context, c *wrenn.Client, opts wrenn.AuditOptions) ([]wrenn.AuditEvent, error) {
		page, err := c.ListAudit(ctx, opts)
		if err != nil {
			return nil, err
		}
		return page.Items, nil
	}, auditHeader, auditRow)
}

// auditTexts say who acts, an action, what it is done to, and what the command was about to do when it failed.
type auditTexts struct{ actor, action, target, doing string }

// auditing makes cmd show events of an audit log.
func auditing[T any](a *app, cmd *cobra.Command, about auditTexts, get func(context.Context, *wrenn.Client, wrenn.AuditOptions) ([]T, error), header []string, row func(T) []string) *cobra.Command {
	var opts wrenn.AuditOptions
	last := auditFlags(cmd, &opts, about)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		opts.Since = since(*last)
		client, err := a.client()
		if err != nil {
			return err
		}
		list, err := get(cmd.Context(), client, opts)
		if err != nil {
			return fmt.Errorf("%s: %w", about.doing, err)
		}
		return printList(a.stdout, list, false, *asJSON, header, row)
	}
	return cmd
}

var auditHeader = []string{"AT", "ACTOR", "ACTION", "TARGET", "OUTCOME", "REQUEST"}

func auditRow(e wrenn.AuditEvent) []string {
	return []string{e.At.Format(time.RFC3339), e.Actor, e.Action, e.Target, e.Outcome, e.RequestID}
}

// auditFlags gives cmd the flags that choose events. It returns how long ago they may be.
func auditFlags(cmd *cobra.Command, opts *wrenn.AuditOptions, about auditTexts) *time.Duration {
	f := cmd.Flags()
	f.StringVar(&opts.Actor, "actor", "", "only what "+about.actor+" has done")
	f.StringVar(&opts.Action, "action", "", "only this action, such as "+about.action)
	f.StringVar(&opts.Target, "target", "", "only what was done to "+about.target)
	f.StringVar(&opts.Outcome, "outcome", "", "only this outcome: accepted, ok, or the code of an error")
	f.StringVar(&opts.RequestID, "request", "", "only what was done for the request of this id")
	f.IntVarP(&opts.Limit, "number", "n", 50, "show so many, up to 200")
	return f.Duration("last", 0, "only what was done in this time (0: ever)")
}

// since is the beginning of the time before now; zero for ever.
func since(last time.Duration) time.Time {
	if last <= 0 {
		return time.Time{}
	}
	return time.Now().Add(-last)
}
