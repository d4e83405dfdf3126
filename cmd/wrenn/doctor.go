package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/doctor"
)

func newDoctor(a *app) *cobra.Command {
	var o doctor.Options
	cmd := &cobra.Command{
		Use: "doctor", Short: "Examine whether this machine can run sandboxes, and how well",
		Long: "Examines this machine and says what to do about what it finds. The exit status is 1 only if no sandbox could run.",
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", firstOf(os.Getenv("WRENN_DATA"), defaultData), "data folder of the host agent")
	f.StringVar(&o.Kernel, "kernel", os.Getenv("WRENN_KERNEL"), "guest kernel (default: that of make images)")
	f.StringVar(&o.Images, "images", os.Getenv("WRENN_IMAGES"), "folder of template images (default: that of make images)")
	f.StringVar(&o.Subnet, "subnet", firstOf(os.Getenv("WRENN_SUBNET"), "10.0.0.0/16"), "network of the sandboxes")
	f.StringVar(&o.Volume, "volume", firstOf(os.Getenv("WRENN_VOLUME"), "auto"), "whether there is a volume with reflinks where the file system has none: auto or off")
	f.StringVar(&o.Jail, "jail", firstOf(os.Getenv("WRENN_JAIL"), "on"), "whether VMMs are confined: on or off")
	f.StringVar(&o.SeccompFilter, "seccomp-filter", os.Getenv("WRENN_SECCOMP_FILTER"), "a compiled filter, for a Firecracker that was built without one")
	f.Uint32Var(&o.OwnerBase, "owner-base", ownerBase(), "first of the user ids of VMMs")
	o.Objects = agentObjects
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		kernel, images := guestFiles()
		o.Kernel, o.Images = firstOf(o.Kernel, kernel), firstOf(o.Images, images)
		findings := doctor.Examine(cmd.Context(), o)
		if err := a.printFindings(findings, *asJSON); err != nil {
			return err
		}
		if !doctor.Usable(findings) {
			return exitStatus(1)
		}
		return nil
	}
	return cmd
}

// ownerBase is where the host agent's user ids begin: its setting, or its default where that is no number, which the agent itself refuses.
func ownerBase() uint32 {
	n, err := strconv.ParseUint(os.Getenv("WRENN_OWNER_BASE"), 10, 32)
	if err != nil {
		return config.DefaultOwnerBase
	}
	return uint32(n)
}

// agentObjects is the object store of the host agent's settings.
func agentObjects() (config.Objects, error) {
	cfg, err := config.LoadAgent()
	if err == nil {
		err = cfg.Objects.Check()
	}
	return cfg.Objects, err
}

func (a *app) printFindings(findings []doctor.Finding, asJSON bool) error {
	if asJSON {
		return printJSON(a.stdout, struct {
			Usable   bool             `json:"usable"`
			Findings []doctor.Finding `json:"findings"`
		}{doctor.Usable(findings), findings})
	}
	var rows [][]string
	for _, f := range findings {
		rows = append(rows, []string{strings.ToUpper(string(f.Status)), f.Name, f.Found})
		if f.Fix != "" {
			rows = append(rows, []string{" ", " ", "-> " + f.Fix})
		}
	}
	return printTable(a.stdout, []string{"STATUS", "CHECK", "FOUND"}, rows)
}
