package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// maxCode is the most code that fits a request, whose body is limited to 1 MiB.
const maxCode = 1<<20 - 64<<10

// runOptions are the flags of `wrenn run`.
type runOptions struct {
	create          wrenn.CreateContextRequest
	language        string
	code, contextID string
	timeout         time.Duration
	asJSON          bool
	output          string // the folder for images
}

func newRunCode(a *app) *cobra.Command {
	var opts runOptions
	cmd := &cobra.Command{
		Use:   "run SANDBOX [FILE|-]",
		Short: "Execute Python or JavaScript in a sandbox and show its results",
		Long: `Executes code, of a file, of standard input or of --code, in an interpreter of its own, which is deleted afterwards, or
with --context in one that keeps its variables from run to run (the API makes such: POST /v1/sandboxes/{id}/contexts).
What the code prints is shown as it comes, and then the value of its last expression: as text, tables too, else as JSON. Images and
other representations that are no text are written to files of --output DIR, whose names are told on standard error.

The status is 0 when the code ended without an error, 1 when not, 124 when its time ran out, 130 when Ctrl-C interrupted
it, and 125 when it could not be executed. Ctrl-C twice within two seconds gives up without waiting for the code.`,
		Example: `  wrenn run sb-0a1b2c3d analysis.py
  wrenn run sb-0a1b2c3d plot.py --output figures
  wrenn run sb-0a1b2c3d -l javascript -c '[1, 2, 3].map(x => x * x)'
  echo 'print(6*7)' | wrenn run sb-0a1b2c3d -`,
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.sandboxIDs,
	}
	f := cmd.Flags()
	f.StringVarP(&opts.language, "language", "l", "", "python or javascript (default: by the file's name, else python)")
	f.StringVarP(&opts.code, "code", "c", "", "the code itself")
	f.StringVar(&opts.contextID, "context", "", "execute in this context and keep it")
	f.StringVarP(&opts.create.Cwd, "cwd", "w", "", "working directory (default: the user's home)")
	f.StringVarP(&opts.create.User, "user", "u", "", "user of the guest (default: the template's)")
	f.DurationVar(&opts.timeout, "timeout", 0, "interrupt the code after this long (default 5m)")
	f.BoolVar(&opts.asJSON, "json", false, "print output, results and error as JSON at the end")
	f.StringVarP(&opts.output, "output", "o", "", "write images and the like into this folder")
	cmd.MarkFlagsMutuallyExclusive("json", "output")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		code, err := a.readCode(&opts, args[1:])
		if err != nil {
			return platformError(err)
		}
		client, err := a.client()
		if err != nil {
			return platformError(err)
		}
		return a.runCode(client, args[0], code, opts)
	}
	return cmd
}

// readCode reads the code and finds out its language.
func (a *app) readCode(opts *runOptions, file []string) (string, error) {
	if (opts.code == "") == (len(file) == 0) {
		return "", models.Errorf(models.Invalid, "name either a file (- for standard input) or --code")
	}
	if opts.contextID != "" && opts.language+opts.create.Cwd+opts.create.User != "" {
		return "", models.Errorf(models.Invalid, "--language, --cwd and --user are for a new context, --context is for one that there is")
	}
	name := ""
	if len(file) > 0 {
		name = file[0]
	}
	opts.create.Language = languageOf(opts.language, name)
	if name == "" {
		return opts.code, nil
	}
	source := io.Reader(a.stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", localError(err)
		}
		defer f.Close()
		source = f
	}
	b, err := io.ReadAll(io.LimitReader(source, maxCode+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxCode {
		return "", models.Errorf(models.Invalid, "code must be at most %d KiB", maxCode>>10).WithHint("copy it with wrenn cp and import it")
	}
	return string(b), nil
}

func languageOf(flag, file string) wrenn.Language {
	switch ext := strings.ToLower(filepath.Ext(file)); {
	case flag == "js":
		return wrenn.JavaScript
	case flag != "":
		return wrenn.Language(flag)
	case ext == ".js" || ext == ".mjs" || ext == ".cjs":
		return wrenn.JavaScript
	}
	return wrenn.Python
}

func (a *app) runCode(client *wrenn.Client, id, code string, opts runOptions) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	contextID := opts.contextID
	if contextID == "" {
		made, err := createContext(ctx, client, id, opts.create)
		if err != nil {
			return platformError(fmt.Errorf("start an interpreter in %s: %w", id, err))
		}
		contextID = made.ID
		defer a.deleteContext(client, id, contextID)
	}
	interrupt := func() {
		_ = client.InterruptContext(ctx, id, contextID) // where it fails, a second Ctrl-C gives up
	}
	go untilGivenUp(ctx, signals, interrupt, cancel)
	end, err := a.execute(ctx, client, id, contextID, wrenn.ExecuteRequest{Code: code, Timeout: opts.timeout}, opts)
	switch {
	case errors.Is(context.Cause(ctx), errGivenUp):
		return exitStatus(128 + int(unix.SIGINT))
	case err != nil:
		return platformError(fmt.Errorf("execute in %s: %w", id, err))
	}
	return a.executionStatus(end)
}

// untilGivenUp interrupts the code at the first signal, and gives it up at a second one soon after, or at one that ends this command.
func untilGivenUp(ctx context.Context, signals <-chan os.Signal, interrupt func(), giveUp context.CancelCauseFunc) {
	var last time.Time
	for {
		select {
		case s := <-signals:
			if s != unix.SIGINT || time.Since(last) < again {
				giveUp(errGivenUp)
				return
			}
			last = time.Now()
			go interrupt()
		case <-ctx.Done():
			return
		}
	}
}

// createContext starts an interpreter, unless a signal comes first.
func createContext(ctx context.Context, client *wrenn.Client, id string, req wrenn.CreateContextRequest) (*wrenn.CodeContext, error) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	return client.CreateContext(ctx, id, req)
}

func (a *app) deleteContext(client *wrenn.Client, id, contextID string) {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	if err := client.DeleteContext(ctx, id, contextID); err != nil {
		fmt.Fprintf(a.stderr, "wrenn: the context %s may still be there: %s\n", printable(contextID), lines(err.Error()))
	}
}

func (a *app) execute(ctx context.Context, client *wrenn.Client, id, contextID string, req wrenn.ExecuteRequest, opts runOptions) (wrenn.ExecutionStatus, error) {
	if opts.asJSON {
		x, err := client.Execute(ctx, id, contextID, req)
		if err != nil {
			return "", err
		}
		return x.Status, printJSON(a.stdout, x)
	}
	stream, err := client.ExecuteStream(ctx, id, contextID, req)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	results := &resultWriter{app: a, folder: opts.output}
	for event, err := range stream.Events() {
		if err != nil {
			return "", err
		}
		if event.Kind == wrenn.Ended {
			return event.Status, nil
		}
		if err := a.showExecution(event, results); err != nil {
			return "", err
		}
	}
	return "", io.ErrUnexpectedEOF
}

func (a *app) showExecution(event wrenn.ExecutionEvent, results *resultWriter) (err error) {
	switch event.Kind {
	case wrenn.Stdout:
		_, err = io.WriteString(a.stdout, event.Text)
	case wrenn.Stderr:
		_, err = io.WriteString(a.stderr, event.Text)
	case wrenn.Gap:
		fmt.Fprintf(a.stderr, "wrenn: %d bytes of the output are missing here\n", event.Bytes)
	case wrenn.Result:
		err = results.show(event.Result)
	case wrenn.CodeError:
		text := strings.Join(event.Error.Traceback, "\n")
		fmt.Fprintln(a.stderr, strings.TrimSuffix(firstOf(text, event.Error.Name+": "+event.Error.Value), "\n"))
	default: // the end is the caller's
	}
	return err
}

func (a *app) executionStatus(status wrenn.ExecutionStatus) error {
	switch status {
	case wrenn.ExecutionOK:
		return nil
	case wrenn.ExecutionInterrupted:
		return exitStatus(128 + int(unix.SIGINT))
	case wrenn.ExecutionTimedOut:
		fmt.Fprintln(a.stderr, "wrenn: the code's time ran out and it was interrupted")
		return exitStatus(statusTimedOut)
	case wrenn.ExecutionFailed:
	}
	return exitStatus(statusOf[wrenn.Internal])
}
