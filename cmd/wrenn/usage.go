package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newUsage(a *app) *cobra.Command {
	var opts wrenn.UsageOptions
	var from, to string
	cmd := &cobra.Command{
		Use: "usage", Short: "Show what the account has used", Args: cobra.NoArgs,
		Long: `Shows what the account has used: processors and memory while sandboxes ran, and what was stored while they slept, and as snapshots.

Times are days, such as 2026-03-01, or times, such as 2026-03-01T12:00:00Z. Without them it is the last 30 days.`,
		Example: "  wrenn usage --from 2026-03-01 --to 2026-04-01 --by day\n  wrenn usage --by sandbox --json",
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "only from this day or time on")
	f.StringVar(&to, "to", "", "only before this day or time")
	f.StringVar(&opts.By, "by", "", `"day" or "sandbox": tell that too`)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if opts.From, err = dayOrTime("--from", from); err != nil {
			return err
		}
		if opts.To, err = dayOrTime("--to", to); err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		u, err := wholeUsage(cmd, client, opts)
		if err != nil {
			return fmt.Errorf("look at the usage: %w", err)
		}
		if *asJSON {
			return printJSON(a.stdout, u)
		}
		return printUsage(a, u)
	}
	return cmd
}

// wholeUsage asks for all pages.
func wholeUsage(cmd *cobra.Command, client *wrenn.Client, opts wrenn.UsageOptions) (*wrenn.Usage, error) {
	whole, err := client.Usage(cmd.Context(), opts)
	for page := whole; err == nil && page.NextCursor != ""; {
		opts.From, opts.To, opts.Cursor = whole.From, whole.To, page.NextCursor
		if page, err = client.Usage(cmd.Context(), opts); err == nil {
			whole.Items = append(whole.Items, page.Items...)
		}
	}
	if err != nil {
		return nil, err
	}
	whole.NextCursor = ""
	return whole, nil
}

func printUsage(a *app, u *wrenn.Usage) error {
	rows := make([][]string, 0, 1+len(u.Items))
	rows = append(rows, usageRow("total", u.Total))
	for _, item := range u.Items {
		rows = append(rows, usageRow(firstOf(item.Day, item.SandboxID), item.Used))
	}
	fmt.Fprintf(a.stdout, "from %s to %s\n", u.From.Format(time.RFC3339), u.To.Format(time.RFC3339))
	return printTable(a.stdout, []string{"", "VCPU SECONDS", "MEMORY GIB SECONDS", "PAUSED GIB HOURS", "HIBERNATED GIB HOURS", "SNAPSHOT GIB HOURS"}, rows)
}

func usageRow(name string, used wrenn.UsageAmount) []string {
	three := func(n float64) string { return strconv.FormatFloat(n, 'f', 3, 64) }
	stored := used.StoredGiBHours
	return []string{name, three(used.VCPUSeconds), three(used.MemoryGiBSeconds), three(stored.Paused), three(stored.Hibernated), three(stored.Snapshot)}
}

// dayOrTime reads the value of a flag; zero for none.
func dayOrTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(form, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usageError{fmt.Errorf("%s must be a day such as 2026-03-01 or a time such as 2026-03-01T12:00:00Z, not %q", flag, text)}
}
