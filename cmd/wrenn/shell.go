package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// hangUpLimit bounds the last word to a shell.
const hangUpLimit = 5 * time.Second

func newShell(a *app) *cobra.Command {
	var req wrenn.TerminalRequest
	cmd := &cobra.Command{
		Use:   "shell SANDBOX",
		Short: "Open a shell in a sandbox",
		Long: `Opens a login shell of the template's default user, or of --user, on a terminal whose size follows
that of this one, and ends with the shell's exit status.

At the beginning of a line, ~. leaves the shell running and says how to come back to it (~~ types one ~). A
connection that breaks is taken up again where it was, for a minute; after that too the shell goes on. When this
terminal is closed, or the command is ended by a signal, the shell gets SIGHUP.`,
		Example: `  wrenn shell sb-0a1b2c3d
  wrenn shell sb-0a1b2c3d -u root
  wrenn shell sb-0a1b2c3d --attach term-4e5f6a7b`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.sandboxIDs,
	}
	f := cmd.Flags()
	f.StringVarP(&req.User, "user", "u", "", "user of the guest (default: the template's)")
	f.StringVarP(&req.Cwd, "cwd", "w", "", "working directory (default: the user's home)")
	f.StringVar(&req.ID, "attach", "", "a terminal that was left running")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if req.ID != "" && req.User+req.Cwd != "" {
			return models.Errorf(models.Invalid, "--user and --cwd are for a new shell, --attach is for one that runs")
		}
		return a.shell(cmd.Context(), args[0], req)
	}
	return cmd
}

func (a *app) shell(ctx context.Context, id string, req wrenn.TerminalRequest) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	s := &session{app: a, client: client, id: id, req: req}
	exit, pid, err := s.run(ctx)
	switch {
	case errors.Is(err, errDetached):
		fmt.Fprintf(a.stderr, "\nwrenn: it goes on; to come back: wrenn shell %s --attach %s\n", printable(id), printable(s.req.ID))
		return nil
	case err != nil && pid > 0 && errors.Is(err, context.Canceled):
		hangUp(client, id, pid)
		return exitStatus(128 + int(unix.SIGHUP))
	case err != nil && pid > 0:
		fmt.Fprintf(a.stderr, "wrenn: the shell may still run; to come back: wrenn shell %s --attach %s\n", printable(id), printable(s.req.ID))
		return fmt.Errorf("shell in %s: %w", id, err)
	case err != nil:
		return fmt.Errorf("shell in %s: %w", id, err)
	case exit.ExitCode != 0:
		return exitStatus(exit.ExitCode)
	}
	return nil
}

// hangUp tells a shell that its terminal has gone. One that does not hear it ends by its timeout.
func hangUp(client *wrenn.Client, id string, pid int) {
	ctx, cancel := context.WithTimeout(context.Background(), hangUpLimit)
	defer cancel()
	_ = client.SignalProcess(ctx, id, pid, "SIGHUP")
}
