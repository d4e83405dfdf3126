package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

func newPort(a *app) *cobra.Command {
	var ttl time.Duration
	var forward string
	var tcp bool
	cmd := &cobra.Command{
		Use:   "port SANDBOX PORT",
		Short: "Reach a port of a sandbox",
		Long: `Prints a URL by which anybody can reach an HTTP server on a port of the sandbox until it expires: the
token in it is all that is needed.

With --forward it listens on 127.0.0.1 instead, until Ctrl-C, and passes HTTP requests, WebSockets and server-sent events among
them, on to the port with your API key: every user and program of this machine can reach the port then.

With --tcp too it passes on connections of any protocol, byte by byte; either side can end its sending before the other. Pages that
your browser shows can reach the port then, if they guess its number.`,
		Example: `  wrenn port sb-0a1b2c3d 8080 --ttl 15m
  wrenn port sb-0a1b2c3d 8080 --forward          # http://127.0.0.1:8080
  wrenn port sb-0a1b2c3d 8080 --forward=9000     # http://127.0.0.1:9000
  wrenn port sb-0a1b2c3d 5432 --forward --tcp    # psql -h 127.0.0.1`,
		Args: cobra.ExactArgs(2), ValidArgsFunction: a.sandboxIDs,
	}
	f := cmd.Flags()
	f.DurationVar(&ttl, "ttl", time.Hour, "how long the URL is valid, at most 168h")
	f.StringVar(&forward, "forward", "", "listen on 127.0.0.1 on this port (0: any) instead")
	f.BoolVar(&tcp, "tcp", false, "forward TCP connections of any protocol, not HTTP requests")
	f.Lookup("forward").NoOptDefVal = "same"
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		port, err := strconv.ParseUint(args[1], 10, 16)
		if err != nil || port == 0 {
			return models.Errorf(models.Invalid, "%q is no port: 1 to 65535", args[1])
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		if tcp && forward == "" {
			return models.Errorf(models.Invalid, "--tcp is for --forward: a URL leads to HTTP alone")
		}
		if forward == "" {
			return a.portURL(cmd.Context(), client, args[0], int(port), ttl, *asJSON)
		}
		if forward == "same" {
			forward = args[1]
		}
		if tcp {
			return a.forwardTCP(cmd.Context(), client, args[0], int(port), forward)
		}
		return a.forward(cmd.Context(), client, args[0], int(port), forward)
	}
	return cmd
}

func (a *app) portURL(ctx context.Context, client *wrenn.Client, id string, port int, ttl time.Duration, asJSON bool) error {
	if ttl <= 0 {
		return models.Errorf(models.Invalid, "--ttl must be above 0")
	}
	token, err := client.CreatePortToken(ctx, id, port, ttl)
	if err != nil {
		return fmt.Errorf("make a token for port %d of %s: %w", port, id, err)
	}
	if asJSON {
		return printJSON(a.stdout, token)
	}
	for _, url := range []string{token.URL, token.PathURL} {
		if url != "" {
			fmt.Fprintln(a.stdout, printable(url))
		}
	}
	if isTerminal(a.stderr) {
		fmt.Fprintf(a.stderr, "valid until %s\n", stamp(token.ExpiresAt.Local()))
	}
	return nil
}

// forward serves until ctx ends.
func (a *app) forward(ctx context.Context, client *wrenn.Client, id string, port int, local string) error {
	handler, err := client.PortHandler(id, port)
	if err != nil {
		return err
	}
	listener, err := listenFor(ctx, client, id, local)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "http://%s\n", listener.Addr())
	server := &http.Server{Handler: fromHere(handler), ReadHeaderTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // Serve says it
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}

// forwardTCP serves until ctx ends.
func (a *app) forwardTCP(ctx context.Context, client *wrenn.Client, id string, port int, local string) error {
	listener, err := listenFor(ctx, client, id, local)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, listener.Addr())
	return (&tcpForward{app: a, client: client, id: id, port: port}).serve(ctx, listener)
}

// listenFor listens on a local port for a sandbox that there is.
func listenFor(ctx context.Context, client *wrenn.Client, id, local string) (net.Listener, error) {
	if _, err := client.GetSandbox(ctx, id); err != nil {
		return nil, fmt.Errorf("look up sandbox: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", local))
	if err != nil {
		return nil, models.Errorf(models.Precondition, "%v", err).WithHint("another port: --forward=0 takes one that is free")
	}
	return listener, nil
}

// fromHere refuses requests under names other than this machine's own, by which a page from elsewhere could reach
// the port through the browser of whoever looks at it (DNS rebinding).
func fromHere(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(r.Host); err == nil {
			host = h
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if host != "localhost" && !strings.HasSuffix(host, ".localhost") && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this forwarding is reached as 127.0.0.1 or localhost", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
