package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newAudit(a *app) *cobra.Command {
	var opts wrenn.AuditOptions
	cmd := &cobra.Command{
		Use: "audit", Short: "Show what was done in the account, by whom, newest first", Args: cobra.NoArgs,
		Example: "  wrenn audit --target sb-5f0c1d2e\n  wrenn audit --action sandbox.destroy --last 24h",
	}
	last := auditFlags(cmd, &opts, "this key's id, operator or system", "sandbox.create", "this sandbox, snapshot or key")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		opts.Since = since(*last)
		client, err := a.client()
		if err != nil {
			return err
		}
		page, err := client.ListAudit(cmd.Context(), opts)
		if err != nil {
			return fmt.Errorf("look at the audit log: %w", err)
		}
		header := []string{"AT", "ACTOR", "ACTION", "TARGET", "OUTCOME", "REQUEST"}
		return printList(a.stdout, page.Items, false, *asJSON, header, auditRow)
	}
	return cmd
}

func auditRow(e wrenn.AuditEvent) []string {
	return []string{e.At.Format(time.RFC3339), e.Actor, e.Action, e.Target, e.Outcome, e.RequestID}
}

// auditFlags gives cmd the flags that choose events; the texts say who acts, an action, and what it is done to. It returns how long ago they may be.
func auditFlags(cmd *cobra.Command, opts *wrenn.AuditOptions, actor, action, target string) *time.Duration {
	f := cmd.Flags()
	f.StringVar(&opts.Actor, "actor", "", "only what "+actor+" has done")
	f.StringVar(&opts.Action, "action", "", "only this action, such as "+action)
	f.StringVar(&opts.Target, "target", "", "only what was done to "+target)
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
