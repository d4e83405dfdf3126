package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newPool(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "pool", Short: "Show what the account may have at a time, and what it has of that",
		Long: "Shows what the account may have at a time, and what it has of that. Sandboxes that sleep take disk alone.", Args: cobra.NoArgs,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		p, err := client.Pool(cmd.Context())
		if err != nil {
			return fmt.Errorf("look at the pool: %w", err)
		}
		if *asJSON {
			return printJSON(a.stdout, p)
		}
		return printTable(a.stdout, []string{"", "USED", "OF"}, [][]string{
			share("vCPUs", p.VCPUs), share("memory MiB", p.MemoryMiB), share("disk MiB", p.DiskMiB), share("running sandboxes", p.Sandboxes),
		})
	}
	return cmd
}

func share(name string, s wrenn.PoolShare) []string {
	limit := "unlimited"
	if s.Limit != nil {
		limit = strconv.FormatInt(*s.Limit, 10)
	}
	return []string{name, strconv.FormatInt(s.Used, 10), limit}
}

const waitHelp = "for how long, up to 10m, to wait for room in the account's pool (0: fail at once)"
