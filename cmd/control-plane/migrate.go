package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/config"
)

func newMigrate(cfg *config.ControlPlane) *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Change the schema of the database", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(
		&cobra.Command{
			Use: "up", Short: "Apply what is missing", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return migrate(cmd.Context(), cfg.DatabaseURL, logger(*cfg))
			},
		},
		&cobra.Command{
			Use: "down", Short: "Take the last migration back", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return db.MigrateDown(cmd.Context(), cfg.DatabaseURL) },
		},
		&cobra.Command{
			Use: "reset", Short: "Drop everything and apply again: every row is lost", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if err := db.MigrateReset(cmd.Context(), cfg.DatabaseURL); err != nil {
					return err
				}
				return migrate(cmd.Context(), cfg.DatabaseURL, logger(*cfg))
			},
		},
		&cobra.Command{
			Use: "status", Short: "Show what is applied", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return printMigrations(cmd, cfg.DatabaseURL) },
		},
	)
	return cmd
}

func printMigrations(cmd *cobra.Command, url string) error {
	all, err := db.Migrations(cmd.Context(), url)
	if err != nil {
		return err
	}
	for _, m := range all {
		applied := "not applied"
		if !m.AppliedAt.IsZero() {
			applied = m.AppliedAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", m.File, applied)
	}
	return nil
}
