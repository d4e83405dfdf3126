// Command wrenn is the command line for those who use sandboxes and those who develop
// Wrenn. It talks to a service through the Go SDK; `wrenn up` runs such a service on this machine.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

// run is main with an exit status, for the tests.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends us the hard way
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	err := newRoot(a).ExecuteContext(ctx)
	if err != nil && !a.started {
		err = usageError{err}
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = exitStatus(128 + int(syscall.SIGINT))
	}
	return report(a.stderr, err)
}
