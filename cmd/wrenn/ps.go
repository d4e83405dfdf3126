package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newPs(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ps SANDBOX",
		Short: "List the programs that were started in a sandbox from outside",
		Example: `  wrenn ps sb-0a1b2c3d
  wrenn exec sb-0a1b2c3d -- ps aux     # all processes, as the guest sees them`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.sandboxIDs,
	}
	all := cmd.Flags().BoolP("all", "a", false, "those too that ended within the last 5 minutes")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		list, err := client.Processes(cmd.Context(), args[0], *all)
		if err != nil {
			return fmt.Errorf("list processes: %w", err)
		}
		if *asJSON {
			return printJSON(a.stdout, append([]wrenn.Process{}, list...))
		}
		rows := make([][]string, len(list))
		for i, p := range list {
			rows[i] = []string{strconv.Itoa(p.PID), p.User, ending(p), age(p.StartedAt, time.Now()), p.Tag, strings.Join(append([]string{p.Cmd}, p.Args...), " ")}
		}
		return printTable(a.stdout, []string{"PID", "USER", "STATE", "AGE", "TAG", "COMMAND"}, rows)
	}
	return cmd
}

// ending is the state of a process in words.
func ending(p wrenn.Process) string {
	switch {
	case p.Exit == nil:
		return p.State
	case p.Exit.OOMKilled:
		return "out of memory"
	case p.Exit.TimedOut:
		return "timed out"
	case p.Exit.Signal != 0:
		return "signal " + strconv.Itoa(p.Exit.Signal)
	}
	return "exit " + strconv.Itoa(p.Exit.ExitCode)
}
