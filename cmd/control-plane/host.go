package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/db"
	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func newHost(cfg *config.ControlPlane) *cobra.Command {
	cmd := &cobra.Command{
		Use: "host", Short: "Let hosts join, list, drain and remove them", Args: cobra.NoArgs,
		Long: `Let hosts join, list, drain and remove them.

A host is ready, draining (an operator has said so), quarantined (its creates have failed; it comes back by itself when a probe succeeds) or down (its agent
cannot be reached). It keeps what it holds in all of them. These commands write what is wanted into the database; the control plane sees to it.`,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	var asJSON, evict, force bool
	list := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the hosts, what they have and what they hold", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStore(cmd.Context(), cfg, func(s *db.Store) error { return printHosts(cmd, s, asJSON) })
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "as a JSON array")
	drain := &cobra.Command{
		Use: "drain HOST-ID", Short: "Have a host take no new sandboxes, and those that sleep leave it for the object store", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHost(cmd, cfg, args[0], func(s *db.Store, h id.Host) error { return s.SetDraining(cmd.Context(), h, operator(), true, evict) })
		},
	}
	drain.Flags().BoolVar(&evict, "evict", false, "pause those that run, so that they leave it too; without it they stay until they end or sleep")
	remove := &cobra.Command{
		Use: "rm HOST-ID", Aliases: []string{"remove"}, Short: "Remove a host for good; it must hold nothing", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHost(cmd, cfg, args[0], func(s *db.Store, h id.Host) error { return s.RemoveHost(cmd.Context(), h, operator(), force) })
		},
	}
	remove.Flags().BoolVar(&force, "force", false, "give up the sandboxes and snapshots that it holds")
	cmd.AddCommand(newHostToken(cfg), newHostTokens(cfg), newHostRevoke(cfg), list, drain, &cobra.Command{
		Use: "undrain HOST-ID", Short: "Have it take sandboxes again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHost(cmd, cfg, args[0], func(s *db.Store, h id.Host) error { return s.SetDraining(cmd.Context(), h, operator(), false, false) })
		},
	}, remove)
	return cmd
}

// withHost opens the store for a command about one host.
func withHost(cmd *cobra.Command, cfg *config.ControlPlane, arg string, do func(*db.Store, id.Host) error) error {
	h, err := id.ParseHost(arg)
	if err != nil {
		return models.Errorf(models.Invalid, "%v", err).WithHint("control-plane host ls shows the ids")
	}
	return withStore(cmd.Context(), cfg, func(s *db.Store) error { return do(s, h) })
}

// hostView is a host as host ls --json prints it.
type hostView struct {
	ID      id.Host          `json:"id"`
	Name    string           `json:"name"`
	Address string           `json:"address"`
	State   models.HostState `json:"state"`
	Reason  string           `json:"reason,omitempty"`
	Evict   bool             `json:"evict"`
	Since   *time.Time       `json:"since,omitempty"`
	Seen    time.Time        `json:"last_seen_at"`
	Driver  string           `json:"driver"`
	Version string           `json:"agent_version"`

	Running   int64 `json:"running"`
	Sleeping  int64 `json:"sleeping"`
	Snapshots int64 `json:"snapshots"`
	VCPUs     share `json:"vcpus"`
	MemoryMiB share `json:"memory_mib"`
	DiskMiB   share `json:"disk_mib"`
}

// share is what is taken of what there is.
type share struct {
	Allotted int64 `json:"allotted"`
	Capacity int64 `json:"capacity"`
}

func viewOfHost(h db.HeldHost) hostView {
	v := hostView{
		ID: h.ID, Name: h.Name, Address: h.Address, State: h.State(), Reason: h.Quarantine, Evict: h.Evict, Seen: h.LastSeenAt.UTC(),
		Driver: h.Driver + " " + h.DriverVersion + " (" + h.Accelerator + ")", Version: h.AgentVersion,
		Running: h.Holds.Running, Sleeping: h.Holds.Sleeping, Snapshots: h.Holds.Snapshots,
		VCPUs:     share{h.Use.VCPUs, int64(h.VCPUs)},
		MemoryMiB: share{h.Use.MemoryMiB + h.Use.Sandboxes*h.OverheadMiB, h.MemoryMiB},
		DiskMiB:   share{h.Use.DiskMiB, h.DiskMiB},
	}
	switch v.State {
	case models.HostDown:
		v.Since = &h.DownAt
	case models.HostQuarantined:
		v.Since = &h.QuarantinedAt
	case models.HostReady, models.HostDraining:
	}
	return v
}

func printHosts(cmd *cobra.Command, s *db.Store, asJSON bool) error {
	hosts, err := s.HeldHosts(cmd.Context())
	if err != nil {
		return err
	}
	all := make([]hostView, len(hosts))
	for i, h := range hosts {
		all[i] = viewOfHost(h)
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tSTATE\tRUNNING\tSLEEPING\tSNAPSHOTS\tVCPUS\tMEMORY MIB\tDISK MIB\tLAST SEEN\tADDRESS")
	for _, v := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", v.ID, v.Name, v.State, v.Running, v.Sleeping, v.Snapshots,
			v.VCPUs, v.MemoryMiB, v.DiskMiB, when(v.Seen), v.Address)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the hosts: %w", err)
	}
	for _, v := range all {
		if v.State == models.HostQuarantined {
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s is in quarantine since %s: %s\n", v.ID, when(*v.Since), v.Reason)
		}
	}
	return nil
}

// String is what a table shows.
func (s share) String() string { return fmt.Sprintf("%d/%d", s.Allotted, s.Capacity) }
