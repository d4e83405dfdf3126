package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/lago"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/usage"
)

func newCourier(cfg config.ControlPlane, store *db.Store, log *slog.Logger) *lago.Courier {
	client := lago.NewClient(lago.Options{URL: cfg.LagoURL, Key: cfg.LagoAPIKey, Codes: map[usage.Metric]string{
		usage.VCPU: cfg.LagoVCPUCode, usage.Memory: cfg.LagoMemoryCode, usage.Stored: cfg.LagoStoredCode,
	}})
	return lago.NewCourier(store, client, lago.Pace{}, log)
}

func newUsage(cfg *config.ControlPlane) *cobra.Command {
	cmd := &cobra.Command{
		Use: "usage", Short: "Look at the usage events that Lago has, gets, or does not want", Args: cobra.NoArgs,
		Long: `Look at the usage events that Lago has, gets, or does not want.

What was used is cut into events at each full hour, and where it ends. They are pending until Lago has them; what cannot be delivered is tried again, up to every 10 minutes. What Lago calls
wrong is refused, with the reason, until usage retry. Delivered events are forgotten after 30 days.`,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(newUsageList(cfg), &cobra.Command{
		Use: "retry [TRANSACTION...]", Short: "Have refused events tried again: some, or all", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withStore(cmd.Context(), cfg, func(s *db.Store) error {
				n, err := s.RetryUsage(cmd.Context(), operator(), args)
				if err != nil {
					return err
				}
				if n == 0 && len(args) > 0 {
					return models.Errorf(models.NotFound, "none of them is an event that was refused").WithHint("control-plane usage ls --state refused shows those")
				}
				fmt.Fprintln(cmd.OutOrStdout(), "tried again:", n)
				return nil
			})
		},
	})
	return cmd
}

func newUsageList(cfg *config.ControlPlane) *cobra.Command {
	var asJSON bool
	var state string
	var most int
	cmd := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "Count the events, or list those of a state, oldest first", Args: cobra.NoArgs}
	f := cmd.Flags()
	f.StringVar(&state, "state", "", "pending, delivered or refused: list these")
	f.IntVarP(&most, "number", "n", 100, "list so many")
	f.BoolVar(&asJSON, "json", false, "as a JSON array")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if most < 1 || most > 10_000 {
			return models.Errorf(models.Invalid, "--number must be between 1 and 10000, not %d", most)
		}
		switch s := db.UsageState(state); s {
		case "":
			return withStore(cmd.Context(), cfg, func(s *db.Store) error { return printUsageCounts(cmd, s, asJSON) })
		case db.UsagePending, db.UsageDelivered, db.UsageRefused:
			return withStore(cmd.Context(), cfg, func(store *db.Store) error { return printUsageEvents(cmd, store, s, most, asJSON) })
		default:
			return models.Errorf(models.Invalid, "--state must be pending, delivered or refused, not %q", state)
		}
	}
	return cmd
}

// usageCountView is what usage ls --json prints of a state.
type usageCountView struct {
	State  db.UsageState `json:"state"`
	Number int64         `json:"number"`
	Oldest time.Time     `json:"oldest"`
}

func printUsageCounts(cmd *cobra.Command, s *db.Store, asJSON bool) error {
	counts, err := s.CountUsage(cmd.Context())
	if err != nil {
		return err
	}
	all := make([]usageCountView, len(counts))
	for i, c := range counts {
		all[i] = usageCountView{c.State, c.Number, c.Oldest.UTC()}
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STATE\tEVENTS\tOLDEST")
	for _, v := range all {
		fmt.Fprintf(w, "%s\t%d\t%s\n", v.State, v.Number, when(v.Oldest))
	}
	return w.Flush()
}

// usageEventView is what usage ls --json prints of an event.
type usageEventView struct {
	Transaction string        `json:"transaction_id"`
	Account     id.Account    `json:"account_id"`
	Sandbox     id.Sandbox    `json:"sandbox_id"`
	Snapshot    id.Snapshot   `json:"snapshot_id,omitempty"`
	Kind        usage.Kind    `json:"kind"`
	Metric      usage.Metric  `json:"metric"`
	From        time.Time     `json:"from"`
	To          time.Time     `json:"to"`
	Value       string        `json:"value"`
	State       db.UsageState `json:"state"`
	Attempts    int           `json:"attempts"`
	NextAt      *time.Time    `json:"next_try_at,omitempty"`
	DeliveredAt *time.Time    `json:"delivered_at,omitempty"`
	Error       string        `json:"error,omitempty"`
}

func viewOfUsage(q db.QueuedUsage) usageEventView {
	v := usageEventView{
		Transaction: q.Transaction, Account: q.Account, Sandbox: q.Sandbox, Snapshot: q.Snapshot, Kind: q.Kind, Metric: q.Metric,
		From: q.Begin.UTC(), To: q.End.UTC(), Value: q.Value, State: q.State, Attempts: q.Attempts, Error: q.Error,
	}
	switch q.State {
	case db.UsagePending:
		v.NextAt = &q.NextAt
	case db.UsageDelivered:
		v.DeliveredAt = &q.DeliveredAt
	case db.UsageRefused:
	}
	return v
}

func printUsageEvents(cmd *cobra.Command, s *db.Store, state db.UsageState, most int, asJSON bool) error {
	found, err := s.QueuedUsage(cmd.Context(), state, most)
	if err != nil {
		return err
	}
	all := make([]usageEventView, len(found))
	for i, q := range found {
		all[i] = viewOfUsage(q)
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TRANSACTION\tACCOUNT\tMETRIC\tVALUE\tFROM\tTO\tTRIES\tERROR")
	for _, v := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%q\n", v.Transaction, v.Account, v.Metric, v.Value, when(v.From), when(v.To), v.Attempts, v.Error)
	}
	return w.Flush()
}
