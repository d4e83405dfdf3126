package main

import (
	"fmt"
	"log/slog"
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
