package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newKill(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kill SANDBOX PID...",
		Short: "Signal programs in a sandbox",
		Long: `Signals programs that were started from outside (see "wrenn ps"). KILL reaches a program and all that it
started, and the command returns when it has ended; other signals reach its process group.`,
		Example: `  wrenn kill sb-0a1b2c3d 412
  wrenn kill sb-0a1b2c3d 412 -s KILL`,
		Args: cobra.MinimumNArgs(2), ValidArgsFunction: a.sandboxIDs,
	}
	sig := cmd.Flags().StringP("signal", "s", "TERM", "name or number of the signal")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		pids := make([]int, len(args)-1)
		for i, text := range args[1:] {
			pid, err := strconv.Atoi(text)
			if err != nil || pid < 1 {
				return models.Errorf(models.Invalid, "%q is no process id", text)
			}
			pids[i] = pid
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := sendSignal(cmd.Context(), client, args[0], pid, *sig); err != nil {
				return fmt.Errorf("signal %d in %s: %w", pid, args[0], err)
			}
		}
		return nil
	}
	return cmd
}

func sendSignal(ctx context.Context, client *wrenn.Client, id string, pid int, sig string) error {
	switch strings.TrimPrefix(strings.ToUpper(sig), "SIG") {
	case "KILL", "9":
		_, err := client.KillProcess(ctx, id, pid)
		return err
	}
	return client.SignalProcess(ctx, id, pid, sig)
}
