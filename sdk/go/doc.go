// Package wrenn is the Go client of the Wrenn API: it creates sandboxes (microVMs), runs
// programs and moves files in them, and destroys them.
//
//	client, err := wrenn.NewClient(wrenn.Options{BaseURL: "http://127.0.0.1:8000", APIKey: key})
//	sandbox, err := client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "python311"})
//	defer client.DestroySandbox(context.WithoutCancel(ctx), sandbox.ID)
//	result, err := client.Exec(ctx, sandbox.ID, wrenn.ExecRequest{Shell: "python3 -c 'print(6*7)'"})
//	fmt.Print(result.Stdout)
//
// A Client may be used by many goroutines at once. Every call obeys its context. Errors of
// the service are *Error values; see Code for what they mean. Sizes are in MiB (2^20 bytes).
//
// A request is repeated only where that is safe: when the connection was refused, so that nothing
// was sent, when it was refused for its rate, and after an answer 503 with a Retry-After header for what only reads or has
// an idempotency key. Calls that change something have one, unless they stream; see WithIdempotencyKey.
package wrenn
