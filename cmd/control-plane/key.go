package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/auth"
	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// devName is the name of the development account and of its key.
const devName = "dev"

// operator is who acts on the command line.
func operator() db.By { return db.By{Actor: "operator", Operation: string(id.NewRequest())} }

// withStore opens the store for one command.
func withStore(ctx context.Context, cfg *config.ControlPlane, do func(*db.Store) error) error {
	store, err := db.Open(ctx, cfg.DatabaseURL)
	if err != nil {
		return err
	}
	defer store.Close()
	return do(store)
}

func newKey(cfg *config.ControlPlane) *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Make, list and revoke API keys", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	var account string
	var k keyFlags
	create := &cobra.Command{
		Use: "create", Short: "Make a key and print it, once: only its hash is kept", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return createKey(cmd, cfg, account, k) },
	}
	create.Flags().StringVar(&k.name, "name", "", "what the key is for (required)")
	create.Flags().StringSliceVar(&k.scopes, "scopes", []string{string(auth.Admin)}, "what it may do: sandboxes:read, sandboxes:write, guest, keys, audit:read, webhooks, or admin for all of that; hosts:read or hosts, which are for whoever runs the service, and no key of an account has or gives without having them")
	create.Flags().DurationVar(&k.life, "expires-in", 0, "how long it is valid (0: for ever)")
	create.Flags().StringVar(&account, "account", "default", "whose it is; made if there is none of that name")
	_ = create.MarkFlagRequired("name") // fails only for a flag that does not exist
	cmd.AddCommand(create,
		&cobra.Command{
			Use: "list", Short: "List all keys, revoked ones too", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return withStore(cmd.Context(), cfg, func(s *db.Store) error { return printKeys(cmd, s) })
			},
		},
		&cobra.Command{
			Use: "revoke KEY-ID", Short: "End a key's validity", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return revokeKey(cmd, cfg, args[0]) },
		},
	)
	return cmd
}

// keyFlags say what a key is to be.
type keyFlags struct {
	name   string
	scopes []string
	life   time.Duration
}

func (k keyFlags) expires() time.Time {
	if k.life == 0 {
		return time.Time{}
	}
	return time.Now().Add(k.life)
}

func createKey(cmd *cobra.Command, cfg *config.ControlPlane, account string, k keyFlags) error {
	scopes, err := auth.ParseScopes(k.scopes)
	if err != nil {
		return err
	}
	if k.life < 0 {
		return models.Errorf(models.Invalid, "--expires-in must not be below 0")
	}
	secret := auth.NewSecret()
	return withStore(cmd.Context(), cfg, func(s *db.Store) error {
		if _, err := auth.Keep(cmd.Context(), s, account, k.name, secret, scopes, k.expires(), operator()); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), string(secret))
		return nil
	})
}

func printKeys(cmd *cobra.Command, s *db.Store) error {
	keys, err := s.Keys(cmd.Context())
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tKEY\tNAME\tACCOUNT\tSCOPES\tCREATED\tLAST USED\tEXPIRES\tREVOKED")
	for _, k := range keys {
		fmt.Fprintf(w, "%s\t%s…\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Prefix, k.Name, k.Account, strings.Join(k.Scopes, ","),
			when(k.CreatedAt), when(k.LastUsedAt), when(k.ExpiresAt), when(k.RevokedAt))
	}
	return w.Flush()
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func revokeKey(cmd *cobra.Command, cfg *config.ControlPlane, arg string) error {
	key, err := id.ParseKey(arg)
	if err != nil {
		return models.Errorf(models.Invalid, "%v", err).WithHint("control-plane key list shows the ids")
	}
	var cache *auth.Cache
	if cfg.RedisURL != config.NoRedis {
		if cache, err = auth.OpenCache(cfg.RedisURL, logger(*cfg)); err != nil {
			return err
		}
		defer cache.Close()
	}
	return withStore(cmd.Context(), cfg, func(s *db.Store) error {
		return auth.Revoke(cmd.Context(), s, cache, "", key, operator())
	})
}

func newSeed(cfg *config.ControlPlane) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "seed", Short: "See to a development account with a key, and print the key", Args: cobra.NoArgs,
		Long: `See to a migrated database with the account "dev" and a key of it, and print the key.

It may do everything, also to hosts. The key is the one in WRENN_API_KEY, else the one in the key file; when there is none, one is
made and written there. Repeated, nothing changes.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return seed(cmd, cfg, file) },
	}
	cmd.Flags().StringVar(&file, "key-file", defaultKeyFile(), "where the key is kept")
	return cmd
}

func seed(cmd *cobra.Command, cfg *config.ControlPlane, file string) error {
	ctx := cmd.Context()
	if _, err := db.MigrateUp(ctx, cfg.DatabaseURL); err != nil {
		return err
	}
	secret, err := devSecret(file)
	if err != nil {
		return err
	}
	return withStore(ctx, cfg, func(s *db.Store) error {
		_, err := s.KeyByHash(ctx, secret.Hash())
		if err != nil && models.CodeOf(err) != models.NotFound {
			return err
		}
		if err != nil {
			if _, err := auth.Keep(ctx, s, devName, devName, secret, []auth.Scope{auth.Admin, auth.Hosts}, time.Time{}, operator()); err != nil {
				return fmt.Errorf("keep the development key: %w", err)
			}
		}
		fmt.Fprintln(cmd.OutOrStdout(), string(secret))
		return nil
	})
}

// defaultKeyFile is where wrenn looks for the key of a service on its own machine.
func defaultKeyFile() string {
	data := os.Getenv("WRENN_DATA")
	if data == "" {
		data = "/var/lib/wrenn"
	}
	return filepath.Join(data, "dev-key")
}

// devSecret returns the key in the environment, else in file, else a new one, which it
// writes to file.
func devSecret(file string) (auth.Secret, error) {
	secret := auth.Secret(os.Getenv("WRENN_API_KEY"))
	if secret == "" {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			secret = auth.NewSecret()
			return secret, writeSecret(file, secret)
		}
		if err != nil {
			return "", fmt.Errorf("read the key: %w", err)
		}
		secret = auth.Secret(strings.TrimSpace(string(b)))
	}
	if !secret.WellFormed() {
		return "", models.Errorf(models.Invalid, "what is in WRENN_API_KEY or in %s is no API key", file).
			WithHint("a key is wrn_ and 32 lower-case hexadecimal digits")
	}
	return secret, nil
}

// writeSecret replaces file as a whole, readable by its owner only.
func writeSecret(file string, secret auth.Secret) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make the key file's folder: %w", err)
	}
	temporary := file + ".new"
	if err := os.WriteFile(temporary, []byte(string(secret)+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	if err := os.Rename(temporary, file); err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	return nil
}
