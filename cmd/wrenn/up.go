package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// commandGrace is how long a command may take to end after SIGTERM.
const commandGrace = 10 * time.Second

func newUp(a *app) *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up [flags] [-- COMMAND [ARGUMENT...]]",
		Short: "Run everything on this machine, for development",
		Long: `Starts a Postgres and a Redis (unless their URLs are given), the control plane and the host agent, makes an
API key, and says how to use them. What dies is started again.

Ctrl-C or SIGTERM ends it all: its sandboxes are destroyed, and nothing is left running, mounted or made, apart from the data
folder. With --keep the sandboxes go on, for the next "wrenn up" to take over; so they do when "wrenn up" is killed.

With a COMMAND, that runs once all is ready, with WRENN_URL and WRENN_API_KEY set, and its end ends everything;
the exit status is its own.`,
		Example: `  wrenn up
  wrenn up -- sh -c 'id=$(wrenn create python311); wrenn exec $id -- python3 -V'`,
	}
	o.declare(cmd)
	cmd.RunE = func(cmd *cobra.Command, command []string) error {
		if len(command) > 0 && cmd.ArgsLenAtDash() != 0 {
			return usageError{errors.New("a command to run comes after --")}
		}
		o.command = command
		o.quiet = !o.logs && (len(command) > 0 || cmd.Flags().Changed("logs"))
		return a.up(cmd.Context(), o)
	}
	return cmd
}

// up is the story: start, say so, wait for the end, end.
func (a *app) up(ctx context.Context, o upOptions) error {
	if err := o.complete(ctx); err != nil {
		return err
	}
	p := newPlatform(o, a.stderr)
	err := p.start(ctx)
	if err == nil {
		err = a.announce(o, p)
	}
	ready := err == nil
	if ready {
		err = a.live(ctx, o, p)
	}
	// What runs is ended in order even if the order came with a signal.
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if stopErr := p.stop(stopCtx, ready); stopErr != nil {
		p.say("not everything could be ended: %v", stopErr)
		if err == nil {
			err = models.Errorf(models.Internal, "something may be left over").WithHint("wrenn up again, then Ctrl-C, cleans it up")
		}
	}
	if !ready && ctx.Err() != nil {
		return exitStatus(128 + int(syscall.SIGINT))
	}
	return err
}

// live waits for what ends it all: the user, the command, or a part that cannot be kept running.
func (a *app) live(ctx context.Context, o upOptions, p *platform) error {
	if len(o.command) == 0 {
		select {
		case <-ctx.Done():
			return nil
		case err := <-p.failed:
			return err
		}
	}
	command, err := a.runCommand(o, p)
	if err != nil {
		return err
	}
	var failed error
	select {
	case <-command.Done():
	case <-ctx.Done():
	case failed = <-p.failed:
	}
	command.Stop(context.WithoutCancel(ctx), child.Step{Signal: syscall.SIGTERM, Grace: commandGrace})
	if failed != nil {
		return failed
	}
	return commandStatus(command.Err())
}

// runCommand starts the user's command in the foreground, so that it owns the terminal as if we were not there.
func (a *app) runCommand(o upOptions, p *platform) (*child.Process, error) {
	path, err := exec.LookPath(o.command[0])
	if err != nil {
		return nil, withStatus{models.Errorf(models.NotFound, "command %v", err), 127}
	}
	command, err := child.Start(child.Spec{
		Path: path, Args: o.command[1:], Foreground: true, DeathSignal: syscall.SIGTERM,
		Env:   append(os.Environ(), "WRENN_URL="+p.url(), "WRENN_API_KEY="+p.key),
		Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr,
	})
	if err != nil {
		return nil, withStatus{models.Errorf(models.Invalid, "%v", err), 126}
	}
	return command, nil
}

// commandStatus is the exit status of a command, as shells count.
func commandStatus(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, is := exit.Sys().(syscall.WaitStatus); is && status.Signaled() {
		return exitStatus(128 + int(status.Signal()))
	}
	return exitStatus(exit.ExitCode())
}

// announce says that all is ready, and what to do next.
func (a *app) announce(o upOptions, p *platform) error {
	if o.envFile != "" {
		text := fmt.Sprintf("WRENN_URL=%s\nWRENN_API_KEY=%s\n", p.url(), p.key)
		if err := durable.WriteFile(o.envFile, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write --env-file: %w", err)
		}
	}
	switch {
	case o.json:
		return printJSON(a.stdout, struct {
			URL    string `json:"url"`
			APIKey string `json:"api_key"`
			Data   string `json:"data"`
		}{p.url(), p.key, o.data})
	case len(o.command) > 0:
		return nil
	}
	end := "destroys its sandboxes"
	if o.keepSandboxes {
		end = "leaves its sandboxes running for the next one"
	}
	_, err := fmt.Fprintf(a.stdout, `
Wrenn is ready at %[1]s
Templates: %[2]s
In another terminal:

  export WRENN_URL=%[1]s WRENN_API_KEY=%[3]s
  wrenn exec $(wrenn create %[4]s) -- uname -a

Ctrl-C ends it and %[5]s.

`, p.url(), printable(joined(p.templates)), p.key, printable(preferred(p.templates)), end)
	return err
}
