package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// maxCollected is how much of each output --json shows.
const maxCollected = 1 << 20

// execOptions are the flags of `wrenn exec` that are not the process's own.
type execOptions struct {
	env                       []string
	noStdin, interactive, tty bool
	detach, asJSON            bool
}

func newExec(a *app) *cobra.Command {
	var req wrenn.ProcessRequest
	var opts execOptions
	cmd := &cobra.Command{
		Use:   "exec SANDBOX [flags] -- PROGRAM [ARGUMENT...]",
		Short: "Run a program in a sandbox",
		Long: `Runs a program in a sandbox, shows its output as it comes and ends with its exit status
(see "wrenn help exit-status").

Standard input is passed on while the program runs, unless it is a terminal (-i passes that on too).
Ctrl-C, SIGTERM, SIGQUIT and SIGHUP go to the program; Ctrl-C twice within two seconds kills it. When the
connection breaks it is taken up again where it was, for a minute; when the command gives up, the
program is killed. Output that could not be had, as the program went on while there was no connection, is
told at the end, and the status is 125 then.

With -t (usually -it) the program has a terminal, whose size follows that of this one.
With --detach it is left running; its pid is printed, for "wrenn ps" and "wrenn kill".`,
		Example: `  wrenn exec sb-0a1b2c3d -- python3 -c 'print(6*7)'
  wrenn exec sb-0a1b2c3d --shell 'cat > notes; wc -l notes' < notes.txt
  wrenn exec -it sb-0a1b2c3d -- python3
  wrenn exec --detach -w /srv sb-0a1b2c3d -- python3 -m http.server`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return platformError(errors.New("name a sandbox and a program"))
			}
			return nil
		},
		ValidArgsFunction: a.sandboxIDs,
	}
	execFlags(cmd, &req, &opts)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, program, err := execArgs(cmd, args)
		if help, _ := cmd.Flags().GetBool("help"); help { // fails only for a flag that does not exist
			return cmd.Help()
		}
		if err == nil {
			err = opts.complete(&req, program)
		}
		if err != nil {
			return platformError(err)
		}
		return a.exec(cmd, id, req, opts)
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return platformError(err) })
	return cmd
}

func execFlags(cmd *cobra.Command, req *wrenn.ProcessRequest, opts *execOptions) {
	f := cmd.Flags()
	f.SetInterspersed(false) // so that the program's own flags need no "--"
	f.StringVarP(&req.Shell, "shell", "c", "", "a command line for /bin/sh instead of a program")
	f.StringVarP(&req.Cwd, "cwd", "w", "", "working directory (default: the user's home)")
	f.StringVarP(&req.User, "user", "u", "", "user of the guest (default: the template's)")
	f.StringArrayVarP(&opts.env, "env", "e", nil, "NAME=VALUE; NAME alone takes the value from here")
	f.DurationVar(&req.Timeout, "timeout", 0, "kill the program after this long, such as 90s (default: never; with -t 24h)")
	f.BoolVarP(&opts.noStdin, "no-stdin", "n", false, "pass no standard input on")
	f.BoolVarP(&opts.interactive, "interactive", "i", false, "pass standard input on even if it is a terminal")
	f.BoolVarP(&opts.tty, "tty", "t", false, "give the program a terminal")
	f.BoolVarP(&opts.detach, "detach", "d", false, "leave the program running and print its pid")
	f.BoolVar(&opts.asJSON, "json", false, "print output, exit status and duration as JSON when the program has ended; with --detach, the process")
}

// complete makes a request of the flags and the program's command line.
func (o execOptions) complete(req *wrenn.ProcessRequest, program []string) (err error) {
	if len(program) > 0 {
		req.Cmd, req.Args = program[0], program[1:]
	}
	switch {
	case (req.Cmd == "") == (req.Shell == ""):
		return models.Errorf(models.Invalid, "name either a program or a --shell command line")
	case o.tty && (o.asJSON || o.detach || o.noStdin):
		return models.Errorf(models.Invalid, "--tty excludes --json, --detach and --no-stdin")
	case o.detach && o.interactive, o.noStdin && o.interactive:
		return models.Errorf(models.Invalid, "--interactive excludes --detach and --no-stdin")
	}
	req.Env, err = environment(o.env)
	return err
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

func (a *app) exec(cmd *cobra.Command, id string, req wrenn.ProcessRequest, opts execOptions) error {
	client, err := a.client()
	if err != nil {
		return platformError(err)
	}
	var exit wrenn.ExecExit
	switch {
	case opts.detach:
		err = a.execDetached(cmd, client, id, req, opts.asJSON)
	case opts.tty:
		exit, err = a.execTerminal(cmd.Context(), client, id, req)
	case opts.asJSON:
		exit, err = a.execJSON(client, id, req, opts)
	default:
		req.Stdin = a.passesStdin(opts)
		exit, err = a.follow(client, id, req, a.stdout, a.stderr)
	}
	return a.ended(id, exit, err)
}

// ended makes an exit status of how a program ended.
func (a *app) ended(id string, exit wrenn.ExecExit, err error) error {
	var silent exitStatus
	switch {
	case errors.As(err, &silent):
		return err
	case err != nil:
		return platformError(fmt.Errorf("run in %s: %w", id, err))
	case exit.TimedOut:
		fmt.Fprintln(a.stderr, "wrenn: the program's time ran out and it was killed")
		return exitStatus(statusTimedOut)
	case exit.OOMKilled:
		fmt.Fprintln(a.stderr, "wrenn: the sandbox had no memory left: the program, or something that it started, was killed")
	}
	if exit.ExitCode != 0 {
		return exitStatus(exit.ExitCode)
	}
	return nil
}

func (a *app) execDetached(cmd *cobra.Command, client *wrenn.Client, id string, req wrenn.ProcessRequest, asJSON bool) error {
	p, err := client.StartProcess(cmd.Context(), id, req)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.stdout, p)
	}
	_, err = fmt.Fprintln(a.stdout, p.PID)
	return err
}

func (a *app) execJSON(client *wrenn.Client, id string, req wrenn.ProcessRequest, opts execOptions) (wrenn.ExecExit, error) {
	var stdout, stderr collected
	req.Stdin = a.passesStdin(opts)
	began := time.Now()
	exit, err := a.follow(client, id, req, &stdout, &stderr)
	if err != nil {
		return exit, err
	}
	return exit, printJSON(a.stdout, struct {
		wrenn.ExecExit
		Stdout          string  `json:"stdout"`
		Stderr          string  `json:"stderr"`
		StdoutTruncated bool    `json:"stdout_truncated"`
		StderrTruncated bool    `json:"stderr_truncated"`
		DurationMS      float64 `json:"duration_ms"`
	}{exit, string(stdout.data), string(stderr.data), stdout.truncated, stderr.truncated, float64(time.Since(began).Microseconds()) / 1000})
}

// collected keeps the first part of what is written to it.
type collected struct {
	data      []byte
	truncated bool
}

func (c *collected) Write(b []byte) (int, error) {
	room := maxCollected - len(c.data)
	c.truncated = c.truncated || len(b) > room
	c.data = append(c.data, b[:min(len(b), room)]...)
	return len(b), nil
}

// passesStdin tells whether standard input is passed on: a pipe, file or socket, and a terminal only when it is asked for.
func (a *app) passesStdin(opts execOptions) bool {
	if opts.noStdin {
		return false
	}
	info, err := a.stdin.Stat()
	return err == nil && (opts.interactive || info.Mode()&os.ModeCharDevice == 0)
}
