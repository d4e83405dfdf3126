// Command control-plane serves the API: it keeps what is wanted in Postgres and has the host
// agents do it. Any number of replicas can run on the same database.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

var version = "devel" // set by the build

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "control-plane:", err)
		var coded *models.Error
		if errors.As(err, &coded) && coded.Hint != "" {
			fmt.Fprintln(os.Stderr, "  ", coded.Hint)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	cfg, err := config.LoadControlPlane()
	if err != nil {
		return err
	}
	root := &cobra.Command{
		Use: "control-plane", Short: "The Wrenn control plane: the API, on Postgres and Redis",
		Version: version, SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error { return cfg.Check() },
	}
	declare(root, &cfg)
	serve := newServe(&cfg)                                                                                                //nolint:contextcheck // cobra hands it to the command
	root.AddCommand(serve, newMigrate(&cfg), newAccount(&cfg), newKey(&cfg), newHost(&cfg), newUsage(&cfg), newSeed(&cfg)) //nolint:contextcheck // likewise
	root.RunE = serve.RunE
	root.Flags().AddFlagSet(serve.Flags())
	root.SetArgs(args)
	root.SetOut(out)
	return root.ExecuteContext(ctx)
}

// declare binds the flags, whose defaults are what the file and the environment said.
func declare(cmd *cobra.Command, cfg *config.ControlPlane) {
	f := cmd.PersistentFlags()
	f.StringVar(&cfg.DatabaseURL, "database-url", cfg.DatabaseURL, "Postgres")
	f.StringVar(&cfg.RedisURL, "redis-url", cfg.RedisURL, `Redis, or "off"`)
	f.StringVar(&cfg.LogFormat, "log-format", cfg.LogFormat, "text or json")
}

func logger(cfg config.ControlPlane) *slog.Logger {
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
