package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newFork(a *app) *cobra.Command {
	var req wrenn.ForkRequest
	var metadata []string
	cmd := &cobra.Command{
		Use: "fork SANDBOX", Short: "Make running children of a sandbox, with its memory and its disk, and print their ids",
		Long: `Makes running children of a running or paused sandbox and prints the id of each. What goes on in the sandbox goes on in each child, with an identity,
an address and randomness of its own; the sandbox itself goes on too. All children are made, or none.`,
		Example: "  wrenn fork sb-5f0c1d2e --count 4", Args: cobra.ExactArgs(1), ValidArgsFunction: a.sandboxIDs,
	}
	f := cmd.Flags()
	f.IntVarP(&req.Count, "count", "n", 1, "how many children, up to 16")
	f.StringArrayVar(&metadata, "metadata", nil, "KEY=VALUE, a label of each child (default: those of the sandbox)")
	f.DurationVar(&req.Wait, "wait", 0, waitHelp)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if f.Changed("metadata") {
			if req.Metadata, err = pairs("metadata", metadata); err != nil {
				return err
			}
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		children, err := client.ForkSandbox(cmd.Context(), args[0], req)
		if err != nil {
			return fmt.Errorf("fork %s: %w", args[0], err)
		}
		if *asJSON {
			return printJSON(a.stdout, children)
		}
		for _, child := range children {
			fmt.Fprintln(a.stdout, printable(child.ID))
		}
		return nil
	}
	return cmd
}
