package main

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newHostDrain(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "drain HOST-ID...", Short: "Have hosts take no new sandboxes, and those that sleep leave them for the object store", Args: cobra.MinimumNArgs(1),
		Long: "What runs stays until it ends or sleeps; with --evict it is paused, and leaves too. Snapshots stay. It goes on by itself: wrenn host show tells how far it has come.",
	}
	evict := cmd.Flags().Bool("evict", false, "pause those that run, so that they leave too")
	return a.onHosts(cmd, "drain", func(ctx context.Context, c *wrenn.Client, id string) error {
		_, err := c.DrainHost(ctx, id, *evict)
		return err
	})
}

func newHostUndrain(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "undrain HOST-ID...", Short: "Have hosts take sandboxes again", Args: cobra.MinimumNArgs(1)}
	return a.onHosts(cmd, "undrain", func(ctx context.Context, c *wrenn.Client, id string) error {
		_, err := c.UndrainHost(ctx, id)
		return err
	})
}

func newHostRm(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "rm HOST-ID...", Aliases: []string{"remove"}, Short: "Remove hosts for good; they must hold nothing", Args: cobra.MinimumNArgs(1)}
	force := cmd.Flags().Bool("force", false, "give up the sandboxes and snapshots that they hold")
	return a.onHosts(cmd, "remove", func(ctx context.Context, c *wrenn.Client, id string) error { return c.RemoveHost(ctx, id, *force) })
}

// onHosts makes cmd do something with each host, or token of one, and print its id. What fails does not keep the others.
func (a *app) onHosts(cmd *cobra.Command, verb string, do func(ctx context.Context, c *wrenn.Client, id string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		return a.each(verb, ids, func(id string) error { return do(cmd.Context(), client, id) })
	}
	return cmd
}

func newHostToken(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "token", Short: "Print a token with which one host may join, once: only its hash is kept", Args: cobra.NoArgs,
		Long: `Print a token with which one host may join, once. On the host:

  WRENN_HOST_TOKEN=… host-agent serve --listen 10.0.0.7:9000 --join http://control-plane:8000`,
	}
	ttl := cmd.Flags().Duration("ttl", time.Hour, "until when it must be used, up to 168h")
	host := cmd.Flags().String("host", "", "id of the host, if it is to join again")
	asJSON := jsonFlag(cmd)
	words := func(t *wrenn.HostToken) []string { return []string{t.Token} }
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return printMade(a, *asJSON, "make the token", words, func(c *wrenn.Client) (*wrenn.HostToken, error) { return c.CreateHostToken(cmd.Context(), *host, *ttl) })
	}
	return cmd
}

func newHostTokens(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "tokens", Short: "List the tokens that can still be used, newest first", Args: cobra.NoArgs}
	return listing(a, cmd, "tokens of hosts", (*wrenn.Client).HostTokens, []string{"ID", "HOST", "AGE", "EXPIRES"}, func(t wrenn.HostToken) []string {
		return []string{t.ID, t.HostID, age(t.CreatedAt, time.Now()), at(t.ExpiresAt)}
	})
}

func newHostRevoke(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke TOKEN-ID...", Short: "Revoke tokens: no host joins with them any more", Args: cobra.MinimumNArgs(1),
		Long: "Revokes tokens and prints the id of each. One with which a host has joined is refused: to keep that host out, remove it.",
	}
	return a.onHosts(cmd, "revoke", func(ctx context.Context, c *wrenn.Client, id string) error { return c.RevokeHostToken(ctx, id) })
}

func newHostAudit(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Show what was done to hosts, by whom, newest first", Args: cobra.NoArgs,
		Example: "  wrenn host audit --target host-0a1b2c3d\n  wrenn host audit --action host.remove --last 24h",
	}
	about := auditTexts{"this key's id, operator, system or a token's id", "host.drain", "this host or token", "look at what was done to hosts"}
	return auditing(a, cmd, about, func(ctx context.Context, c *wrenn.Client, opts wrenn.AuditOptions) ([]wrenn.HostAuditEvent, error) {
		return gather(first(c.HostAudit(ctx, opts), opts.Limit))
	}, append(slices.Clone(auditHeader), "DETAIL"), func(e wrenn.HostAuditEvent) []string { return append(auditRow(e.AuditEvent), e.Detail) })
}

// first ends a list after some items.
func first[T any](all iter.Seq2[T, error], most int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		n := 0
		for item, err := range all {
			if n++; !yield(item, err) || n == most {
				return
			}
		}
	}
}
