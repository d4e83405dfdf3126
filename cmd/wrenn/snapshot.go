package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newSnapshot(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "snapshot", Short: "Keep what sandboxes are, memory and disk, and create others from it",
		Long: "A snapshot is what a sandbox was at one instant. It stays when the sandbox is gone; wrenn create --snapshot makes others from it.",
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSnapshotCreate(a), newSnapshotLs(a), newSnapshotRm(a))
	return cmd
}

func newSnapshotCreate(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create SANDBOX NAME", Short: "Keep what a running or paused sandbox is now, and print the snapshot's id",
		Example: `  id=$(wrenn snapshot create sb-5f0c1d2e before-upgrade)
  wrenn create --snapshot $id`,
		Args: cobra.ExactArgs(2), ValidArgsFunction: a.sandboxIDs,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		what, snapshotID := "keep "+args[0]+" in a snapshot", func(made *wrenn.Snapshot) []string { return []string{made.ID} }
		return printMade(a, *asJSON, what, snapshotID, func(c *wrenn.Client) (*wrenn.Snapshot, error) {
			return c.CreateSnapshot(cmd.Context(), args[0], args[1])
		})
	}
	return cmd
}

func newSnapshotLs(a *app) *cobra.Command {
	opts := wrenn.SnapshotListOptions{Limit: 200}
	cmd := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List snapshots, newest first", Args: cobra.NoArgs}
	f := cmd.Flags()
	f.StringVar(&opts.Sandbox, "sandbox", "", "only those of this sandbox")
	quiet := f.BoolP("quiet", "q", false, "print ids only")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkForm(*quiet, *asJSON); err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		list, err := gather(client.AllSnapshots(cmd.Context(), opts))
		if err != nil {
			return fmt.Errorf("list snapshots: %w", err)
		}
		return a.printSnapshots(list, *quiet, *asJSON)
	}
	return cmd
}

func (a *app) printSnapshots(list []wrenn.Snapshot, quiet, asJSON bool) error {
	const mib = 1 << 20
	header := []string{"ID", "NAME", "STATE", "SANDBOX", "PARENT", "TEMPLATE", "MEMORY MIB", "TAKES MIB", "AGE"}
	return printList(a.stdout, list, quiet, asJSON, header, func(s wrenn.Snapshot) []string {
		return []string{
			s.ID, s.Name, string(s.State), s.SandboxID, s.ParentID, s.Template, strconv.Itoa(s.MemoryMiB), strconv.FormatInt(s.Bytes/mib, 10), age(s.CreatedAt, time.Now()),
		}
	})
}

func newSnapshotRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm SNAPSHOT...", Short: "Delete snapshots; sandboxes that were created from them go on",
		Long: "Deletes snapshots and prints the id of each. What fails does not keep the others; the exit status is that of the first failure.",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.snapshotIDs,
		RunE: func(cmd *cobra.Command, ids []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.each("delete", ids, func(id string) error { return client.DeleteSnapshot(cmd.Context(), id) })
		},
	}
}

// snapshotIDs completes the ids of the snapshots that exist.
func (a *app) snapshotIDs(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, prefix, func(ctx context.Context, c *wrenn.Client) ([]string, error) {
		page, err := c.ListSnapshots(ctx, wrenn.SnapshotListOptions{Limit: 200})
		if err != nil {
			return nil, err
		}
		ids := make([]string, len(page.Items))
		for i, s := range page.Items {
			ids[i] = cobra.CompletionWithDesc(s.ID, printable(s.Name))
		}
		return ids, nil
	})
}
