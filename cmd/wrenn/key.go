package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newKey(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Short: "Make, list, rotate and revoke the account's API keys",
		Long: `A key may do what its scopes say: sandboxes:read, sandboxes:write, guest (programs, files, terminals, ports), keys, audit:read, webhooks, or admin for all of that.
No key can make one that may do more than itself, or is valid for longer.`,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyCreate(a), newKeyLs(a), newKeyRotate(a), newKeyRm(a))
	return cmd
}

func newKeyCreate(a *app) *cobra.Command {
	var scopes []string
	var life time.Duration
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a key and print it, once: nobody can look it up later",
		Example: "  wrenn key create ci --scopes sandboxes:write,guest --expires-in 720h", Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringSliceVar(&scopes, "scopes", nil, "what it may do (required)")
	cmd.Flags().DurationVar(&life, "expires-in", 0, "how long it is valid (0: as long as the key that makes it)")
	_ = cmd.MarkFlagRequired("scopes") // fails only for a flag that does not exist
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asked := make([]wrenn.Scope, len(scopes))
		for i, s := range scopes {
			asked[i] = wrenn.Scope(s)
		}
		return printMade(a, *asJSON, "make the key", secretOf, func(c *wrenn.Client) (*wrenn.APIKey, error) {
			return c.CreateAPIKey(cmd.Context(), args[0], asked, life)
		})
	}
	return cmd
}

func newKeyRotate(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate KEY-ID", Short: "Give a key another secret, and print it, once", Args: cobra.ExactArgs(1),
		Long: "Gives a key another secret, and prints it, once. Its id, scopes and expiry stay; the secret before works on for --grace.",
	}
	grace := cmd.Flags().Duration("grace", 0, "how long the secret before works on, up to 168h")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return printMade(a, *asJSON, "rotate "+args[0], secretOf, func(c *wrenn.Client) (*wrenn.APIKey, error) { return c.RotateAPIKey(cmd.Context(), args[0], *grace) })
	}
	return cmd
}

func secretOf(k *wrenn.APIKey) []string { return []string{k.Key} }

func newKeyLs(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List keys, newest first, those that are not valid any more too", Args: cobra.NoArgs}
	return listing(a, cmd, "keys", (*wrenn.Client).APIKeys, []string{"ID", "KEY", "NAME", "SCOPES", "AGE", "LAST USED", "EXPIRES", "REVOKED"}, keyRow)
}

func keyRow(k wrenn.APIKey) []string {
	scopes := make([]string, len(k.Scopes))
	for i, s := range k.Scopes {
		scopes[i] = string(s)
	}
	return []string{k.ID, k.Prefix + "…", k.Name, strings.Join(scopes, ","), age(k.CreatedAt, time.Now()), at(k.LastUsedAt), at(k.ExpiresAt), at(k.RevokedAt)}
}

// at is empty for a time that is zero.
func at(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

func newKeyRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm KEY-ID...", Short: "Revoke keys: no request begins with them a second later", Args: cobra.MinimumNArgs(1),
		Long: "Revokes keys and prints the id of each. What fails does not keep the others; the exit status is that of the first failure.",
		RunE: func(cmd *cobra.Command, ids []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.each("revoke", ids, func(id string) error { return client.RevokeAPIKey(cmd.Context(), id) })
		},
	}
}
