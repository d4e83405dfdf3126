package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// maxStdin is the most standard input that fits a request, whose body is limited to 1 MiB.
const maxStdin = 1<<20 - 16<<10

// stdinPatience is after how long a person is told what the command waits for.
const stdinPatience = 3 * time.Second

func newExec(a *app) *cobra.Command {
	var req wrenn.ExecRequest
	var env []string
	cmd := &cobra.Command{
		Use:   "exec SANDBOX [flags] -- PROGRAM [ARGUMENT...]",
		Short: "Run a program in a sandbox",
		Long: `Runs a program in a sandbox, shows its output as it comes and ends with its exit status
(see "wrenn help exit-status").

Standard input is passed on unless it is a terminal: it is read to its end first, up to 1 MiB of UTF-8. For
more, or for other bytes, copy a file with "wrenn cp" and redirect it in the sandbox.`,
		Example: `  wrenn exec sb-0a1b2c3d -- python3 -c 'print(6*7)'
  wrenn exec sb-0a1b2c3d --shell 'cat > notes; wc -l notes' < notes.txt`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return platformError(errors.New("name a sandbox and a program"))
			}
			return nil
		},
		ValidArgsFunction: a.sandboxIDs,
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // so that the program's own flags need no "--"
	f.StringVarP(&req.Shell, "shell", "c", "", "a command line for /bin/sh instead of a program")
	f.StringVar(&req.Cwd, "cwd", "", "working directory (default: the user's home)")
	f.StringVarP(&req.User, "user", "u", "", "user of the guest (default: the template's)")
	f.StringArrayVarP(&env, "env", "e", nil, "NAME=VALUE; NAME alone takes the value from here")
	f.DurationVar(&req.Timeout, "timeout", 0, "kill the program after this long, such as 90s (default 5m)")
	noStdin := f.BoolP("no-stdin", "n", false, "pass no standard input on")
	asJSON := f.Bool("json", false, "print output, exit status and duration as JSON when the program has ended")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		id, program, err := execArgs(cmd, args)
		if help, _ := cmd.Flags().GetBool("help"); help { // fails only for a flag that does not exist
			return cmd.Help()
		}
		if err != nil {
			return platformError(err)
		}
		if len(program) > 0 {
			req.Cmd, req.Args = program[0], program[1:]
		}
		if (req.Cmd == "") == (req.Shell == "") {
			return platformError(models.Errorf(models.Invalid, "name either a program or a --shell command line"))
		}
		if req.Env, err = environment(env); err != nil {
			return platformError(err)
		}
		if !*noStdin {
			if req.Stdin, err = a.readStdin(); err != nil {
				return platformError(err)
			}
		}
		return a.exec(cmd, id, req, *asJSON)
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return platformError(err) })
	return cmd
}

// platformError sets an error of ours apart from a failure of the program.
func platformError(err error) error { return withStatus{err, statusPlatform} }

// execArgs allows flags before and after the sandbox's id, and none of ours after the program's name.
func execArgs(cmd *cobra.Command, args []string) (id string, program []string, err error) {
	id, rest := args[0], args[1:]
	if err := cmd.Flags().Parse(rest); err != nil {
		return "", nil, usageError{err}
	}
	return id, cmd.Flags().Args(), nil
}

func (a *app) exec(cmd *cobra.Command, id string, req wrenn.ExecRequest, asJSON bool) error {
	client, err := a.client()
	if err != nil {
		return platformError(err)
	}
	var exit wrenn.ExecExit
	if asJSON {
		exit, err = a.execJSON(cmd, client, id, req)
	} else {
		exit, err = a.execStream(cmd, client, id, req)
	}
	switch {
	case err != nil:
		return platformError(fmt.Errorf("run in %s: %w", id, err))
	case exit.TimedOut:
		fmt.Fprintln(a.stderr, "wrenn: the program's time ran out and it was killed")
		return exitStatus(statusTimedOut)
	case exit.ExitCode != 0:
		return exitStatus(exit.ExitCode)
	}
	return nil
}

func (a *app) execStream(cmd *cobra.Command, client *wrenn.Client, id string, req wrenn.ExecRequest) (wrenn.ExecExit, error) {
	stream, err := client.ExecStream(cmd.Context(), id, req)
	if err != nil {
		return wrenn.ExecExit{}, err
	}
	defer stream.Close()
	return stream.Copy(a.stdout, a.stderr)
}

func (a *app) execJSON(cmd *cobra.Command, client *wrenn.Client, id string, req wrenn.ExecRequest) (wrenn.ExecExit, error) {
	r, err := client.Exec(cmd.Context(), id, req)
	if err != nil {
		return wrenn.ExecExit{}, err
	}
	return r.ExecExit, printJSON(a.stdout, struct {
		wrenn.ExecExit
		Stdout          string  `json:"stdout"`
		Stderr          string  `json:"stderr"`
		StdoutTruncated bool    `json:"stdout_truncated"`
		StderrTruncated bool    `json:"stderr_truncated"`
		DurationMS      float64 `json:"duration_ms"`
	}{r.ExecExit, r.Stdout, r.Stderr, r.StdoutTruncated, r.StderrTruncated, float64(r.Duration.Microseconds()) / 1000})
}

// readStdin reads a pipe, file or socket to its end; a terminal or another device gives nothing.
func (a *app) readStdin() (string, error) {
	info, err := a.stdin.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice != 0 {
		return "", nil
	}
	notice := time.AfterFunc(stdinPatience, func() {
		fmt.Fprintln(a.stderr, "wrenn: reading standard input to its end before the program starts (-n passes none on)")
	})
	defer notice.Stop()
	b, err := io.ReadAll(io.LimitReader(a.stdin, maxStdin+1))
	if err != nil {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	if len(b) > maxStdin || !utf8.Valid(b) {
		return "", models.Errorf(models.Invalid, "standard input must be UTF-8 of at most %d KiB", maxStdin>>10).
			WithHint("wrenn cp - SANDBOX:FILE, then redirect it: wrenn exec SANDBOX --shell 'PROGRAM < FILE'")
	}
	return string(b), nil
}
