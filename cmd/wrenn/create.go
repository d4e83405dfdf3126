package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newCreate(a *app) *cobra.Command {
	var req wrenn.CreateSandboxRequest
	var env, metadata []string
	var network networkFlags
	var life lifecycleFlags
	cmd := &cobra.Command{
		Use:   "create TEMPLATE | --snapshot SNAPSHOT",
		Short: "Create a sandbox and print its id",
		Example: `  id=$(wrenn create python311)
  wrenn create python311 --memory 512 --env TOKEN --metadata owner=me
  wrenn create python311 --auto-pause 10m --auto-destroy 168h
  wrenn create python311 --internet off --allow pypi.org,files.pythonhosted.org
  wrenn create --snapshot snap-0a1b2c3d`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.templateNames,
	}
	f := cmd.Flags()
	f.IntVar(&req.VCPUs, "vcpus", 0, "number of virtual processors (default: the template's)")
	f.IntVar(&req.MemoryMiB, "memory", 0, "memory in MiB (default: the template's)")
	f.IntVar(&req.DiskMiB, "disk", 0, "disk in MiB (default: the template's)")
	f.StringVar(&req.Name, "name", "", "a name of your own")
	f.StringArrayVarP(&env, "env", "e", nil, "NAME=VALUE for every program in the sandbox; NAME alone takes the value from here")
	f.StringArrayVar(&metadata, "metadata", nil, "KEY=VALUE, a label of your own")
	autoResume := f.Bool("auto-resume", true, "whether requests to it resume it while it is paused")
	f.StringVar(&req.Snapshot, "snapshot", "", "create it from this snapshot, whose template, size, network policy and environment it has")
	network.declare(f)
	life.declare(f)
	f.DurationVar(&life.timeout, "timeout", 0, "what --on-timeout says happens so long after its start, whatever it does (0: never)")
	f.DurationVar(&req.Wait, "wait", 0, waitHelp)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if (len(args) == 1) == (req.Snapshot != "") {
			return models.Errorf(models.Invalid, "name a template, or say --snapshot")
		}
		req.Template, req.Network, req.Lifecycle = strings.Join(args, ""), network.policy(f), life.change(f)
		if req.Env, err = environment(env); err != nil {
			return err
		}
		if req.Metadata, err = pairs("metadata", metadata); err != nil {
			return err
		}
		if f.Changed("auto-resume") {
			req.AutoResume = autoResume
		}
		return a.create(cmd, req, *asJSON)
	}
	return cmd
}

func (a *app) create(cmd *cobra.Command, req wrenn.CreateSandboxRequest, asJSON bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	begin := time.Now()
	s, err := client.CreateSandbox(cmd.Context(), req)
	if err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	if asJSON {
		return printJSON(a.stdout, s)
	}
	if isTerminal(a.stderr) {
		fmt.Fprintf(a.stderr, "%s is %s after %d ms; next: wrenn exec %s -- uname -a\n", printable(s.ID), printable(string(s.State)), time.Since(begin).Milliseconds(), printable(s.ID))
	}
	_, err = fmt.Fprintln(a.stdout, printable(s.ID))
	return err
}

// environment reads NAME=VALUE, and NAME alone as the value it has here.
func environment(entries []string) (map[string]string, error) {
	complete := make([]string, 0, len(entries))
	for _, e := range entries {
		if !strings.Contains(e, "=") {
			value, set := os.LookupEnv(e)
			if !set {
				return nil, models.Errorf(models.Invalid, "--env %s: the variable is not set here", e).WithHint("give a value: --env %s=VALUE", e)
			}
			e += "=" + value
		}
		complete = append(complete, e)
	}
	return pairs("env", complete)
}

// pairs reads KEY=VALUE; the last of equal keys counts.
func pairs(flag string, entries []string) (map[string]string, error) {
	m := make(map[string]string, len(entries))
	for _, e := range entries {
		key, value, found := strings.Cut(e, "=")
		if !found || key == "" {
			return nil, models.Errorf(models.Invalid, "--%s %q is not of the form KEY=VALUE", flag, e)
		}
		m[key] = value
	}
	return m, nil
}
