package main

import (
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func newAccount(cfg *config.ControlPlane) *cobra.Command {
	cmd := &cobra.Command{Use: "account", Short: "Make and list accounts, and set what they may have at a time", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(newAccountCreate(cfg), newAccountPool(cfg), &cobra.Command{
		Use: "list", Short: "List all accounts with what they have of their pools", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStore(cmd.Context(), cfg, func(s *db.Store) error { return printAccounts(cmd, s) })
		},
	})
	return cmd
}

func newAccountCreate(cfg *config.ControlPlane) *cobra.Command {
	var pool db.PoolChange
	cmd := &cobra.Command{Use: "create NAME", Short: "Make an account and print its id; a limit that is not given there is none", Args: cobra.ExactArgs(1)}
	declarePool(cmd.Flags(), &pool)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := auth.CheckName("the account's name", args[0]); err != nil {
			return err
		}
		return withStore(cmd.Context(), cfg, func(s *db.Store) error {
			account, err := s.CreateAccount(cmd.Context(), args[0], operator())
			if err == nil && pool != (db.PoolChange{}) {
				err = s.SetPool(cmd.Context(), account, operator(), pool)
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), account)
			return nil
		})
	}
	return cmd
}

func newAccountPool(cfg *config.ControlPlane) *cobra.Command {
	var pool db.PoolChange
	cmd := &cobra.Command{
		Use: "pool NAME", Short: "Set limits of an account's pool; one that is not given stays", Args: cobra.ExactArgs(1),
		Long: `Set limits of an account's pool; one that is not given stays.

What an account has it keeps, also when that is more than the new limit: nothing more is started then. Sandboxes that sleep take disk alone.`,
	}
	declarePool(cmd.Flags(), &pool)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if pool == (db.PoolChange{}) {
			return models.Errorf(models.Invalid, "no limit is given").WithHint("control-plane account list shows those that there are")
		}
		return withStore(cmd.Context(), cfg, func(s *db.Store) error {
			account, err := s.AccountNamed(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return s.SetPool(cmd.Context(), account, operator(), pool)
		})
	}
	return cmd
}

func declarePool(f *pflag.FlagSet, pool *db.PoolChange) {
	f.Var(limitFlag{&pool.VCPUs}, "vcpus", "virtual processors of running sandboxes")
	f.Var(limitFlag{&pool.MemoryMiB}, "memory", "their memory in MiB")
	f.Var(limitFlag{&pool.DiskMiB}, "disk", "disk in MiB, of all sandboxes and snapshots")
	f.Var(limitFlag{&pool.Sandboxes}, "sandboxes", "running sandboxes")
}

const unlimited = "unlimited"

// limitFlag is a flag whose value is a limit of a pool, or none.
type limitFlag struct{ into **int64 }

// String returns nothing: what is not given has no default.
func (limitFlag) String() string { return "" }

// Type is what the help calls it.
func (limitFlag) Type() string { return "N|" + unlimited }

// Set implements pflag.Value.
func (l limitFlag) Set(text string) error {
	n := models.Unlimited
	if text != unlimited {
		var err error
		if n, err = strconv.ParseInt(text, 10, 64); err != nil || n < 0 {
			return models.Errorf(models.Invalid, "a limit is a whole number from 0 on, or %s", unlimited)
		}
	}
	*l.into = &n
	return nil
}

func printAccounts(cmd *cobra.Command, s *db.Store) error {
	accounts, err := s.Accounts(cmd.Context())
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tVCPUS\tMEMORY MIB\tDISK MIB\tRUNNING\tCREATED")
	for _, a := range accounts {
		u, l := a.Pool.Used, a.Pool.Limit
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.ID, a.Name, usedOf(u.VCPUs, l.VCPUs), usedOf(u.MemoryMiB, l.MemoryMiB),
			usedOf(u.DiskMiB, l.DiskMiB), usedOf(u.Sandboxes, l.Sandboxes), when(a.CreatedAt))
	}
	return w.Flush()
}

func usedOf(used, limit int64) string {
	if limit == models.Unlimited {
		return fmt.Sprintf("%d of %s", used, unlimited)
	}
	return fmt.Sprintf("%d of %d", used, limit)
}
