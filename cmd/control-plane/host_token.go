package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/controller"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func newHostToken(cfg *config.ControlPlane) *cobra.Command {
	var ttl time.Duration
	var host string
	cmd := &cobra.Command{
		Use: "token", Short: "Print a token with which one host may join, once: only its hash is kept", Args: cobra.NoArgs,
		Long: `Print a token with which one host may join, once. On the host:

  WRENN_HOST_TOKEN=… host-agent serve --listen 10.0.0.7:9000 --join http://control-plane:8000

The host makes a key, has it certified, and serves control planes over mutual TLS from then on. Its certificate is renewed by itself; a host that was away for
longer than a week needs another token, of --host.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return createHostToken(cmd, cfg, host, ttl) },
	}
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "until when it must be used")
	cmd.Flags().StringVar(&host, "host", "", "id of the host, if it is to join again")
	return cmd
}

func createHostToken(cmd *cobra.Command, cfg *config.ControlPlane, host string, ttl time.Duration) error {
	var bound id.Host
	if host != "" {
		var err error
		if bound, err = id.ParseHost(host); err != nil {
			return models.Errorf(models.Invalid, "%v", err).WithHint("control-plane host ls shows the ids")
		}
	}
	return withStore(cmd.Context(), cfg, func(s *db.Store) error {
		fleet, err := controller.NewFleet(nil, s, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		token, _, err := fleet.NewToken(cmd.Context(), s, bound, operator(), ttl)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), string(token))
		return err
	})
}

func newHostTokens(cfg *config.ControlPlane) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "tokens", Short: "List the tokens that can still be used, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStore(cmd.Context(), cfg, func(s *db.Store) error { return printHostTokens(cmd, s, asJSON) })
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as a JSON array")
	return cmd
}

// hostTokenView is a token as host tokens --json prints it.
type hostTokenView struct {
	ID      id.HostToken `json:"id"`
	Host    id.Host      `json:"host_id,omitempty"`
	Created time.Time    `json:"created_at"`
	Expires time.Time    `json:"expires_at"`
}

func printHostTokens(cmd *cobra.Command, s *db.Store, asJSON bool) error {
	tokens, err := s.HostTokens(cmd.Context(), db.HostTokenPage{})
	if err != nil {
		return err
	}
	if asJSON {
		all := make([]hostTokenView, len(tokens))
		for i, t := range tokens {
			all[i] = hostTokenView{t.ID, t.Host, t.CreatedAt.UTC(), t.ExpiresAt.UTC()}
		}
		return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tHOST\tCREATED\tEXPIRES")
	for _, t := range tokens {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.ID, cmp.Or(t.Host, "-"), when(t.CreatedAt), when(t.ExpiresAt))
	}
	return w.Flush()
}

func newHostRevoke(cfg *config.ControlPlane) *cobra.Command {
	return &cobra.Command{
		Use: "revoke TOKEN-ID", Short: "Revoke a token: no host joins with it any more", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := id.ParseHostToken(args[0])
			if err != nil {
				return models.Errorf(models.Invalid, "%v", err).WithHint("control-plane host tokens shows the ids")
			}
			return withStore(cmd.Context(), cfg, func(s *db.Store) error { return s.RevokeHostToken(cmd.Context(), token, operator()) })
		},
	}
}
