package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

// Stand-ins for the two servers that `wrenn up` starts: this test binary under their names. What happens to
// them they write to the file diary, a line each. Their behaviour is in the variable AGENT or CONTROL_PLANE:
// "" (as it should be), "dies" (at once), "mute" (never ready), "stubborn" (ignores SIGTERM).

// diary is the variable with the path of the diary.
const diary = "STANDIN_DIARY"

func note(format string, args ...any) {
	f, err := os.OpenFile(os.Getenv(diary), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintf(f, format+"\n", args...)
}

// standIn behaves as the program that this binary is called as; for others it returns.
func standIn() {
	switch filepath.Base(os.Args[0]) {
	case "host-agent":
		os.Exit(standInAgent(os.Args[1:]))
	case "control-plane":
		os.Exit(standInControlPlane(os.Args[1:]))
	case "wrenn":
		os.Exit(run())
	}
}

func flagOf(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 {
		return args[i+1]
	}
	return ""
}

// signals arrive also when nobody waits for them yet.
func signals() chan os.Signal {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	return c
}

func standInAgent(args []string) int {
	ended := signals()
	note("agent %s", strings.Join(args, " "))
	if path := flagOf(args, "--netns"); path != "" {
		n, err := netns.Open(path)
		if err != nil {
			note("agent: %v", err)
			return 1
		}
		n.Close()
	}
	if args[0] == "purge" {
		return 0
	}
	return serve("AGENT", "agent", ended, func() (func(), error) {
		path := strings.TrimPrefix(flagOf(args, "--listen"), "unix://")
		_ = os.Remove(path) // of an earlier one
		l, err := net.Listen("unix", path)
		if err != nil {
			return nil, err
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
		return func() { l.Close() }, nil
	})
}

// serve behaves as the variable says; open makes it ready.
func serve(variable, name string, ended chan os.Signal, open func() (func(), error)) int {
	mode := os.Getenv(variable)
	fmt.Fprintf(os.Stderr, "%s says its\tlast words\x1b[2J\n", name)
	if mode == "dies" {
		return 3
	}
	if mode != "mute" {
		shut, err := open()
		if err != nil {
			note("%s: %v", name, err)
			return 1
		}
		defer shut()
	}
	note("%s serves as %d", name, os.Getpid())
	for s := range ended {
		note("%s got %s", name, s)
		if mode != "stubborn" {
			return 0
		}
	}
	return 0
}

func standInControlPlane(args []string) int {
	ended := signals()
	note("control-plane %s", strings.Join(args, " "))
	for _, foreign := range []string{"WRENN_API_KEY", "WRENN_URL"} {
		if os.Getenv(foreign) != "" {
			note("control-plane: %s came from outside", foreign)
		}
	}
	if args[0] == "seed" {
		return seed(flagOf(args, "--key-file"))
	}
	return serve("CONTROL_PLANE", "control-plane", ended, func() (func(), error) {
		l, err := net.Listen("tcp", os.Getenv("WRENN_LISTEN"))
		if err != nil {
			return nil, err
		}
		server := &http.Server{Handler: http.HandlerFunc(standInAPI)}
		go func() { _ = server.Serve(l) }() // until Close
		return func() { server.Close() }, nil
	})
}

// seed uses the databases, if they are real.
func seed(keyFile string) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if url := os.Getenv("WRENN_DATABASE_URL"); url != "postgres://nowhere" {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS seeded (n int)"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := os.WriteFile(keyFile, []byte(fakeKey+"\n"), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(fakeKey)
	return 0
}

// standInAPI is ready when the agent can be reached, and has one sandbox until that is destroyed.
func standInAPI(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) } // the client may have gone away
	switch {
	case r.URL.Path == "/readyz":
		conn, err := net.Dial("unix", strings.TrimPrefix(os.Getenv("WRENN_AGENT"), "unix://"))
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			answer(map[string]any{"status": "failed", "checks": []any{}})
			return
		}
		conn.Close()
		answer(map[string]any{"status": "ready", "checks": []any{}})
	case r.Header.Get("X-API-Key") != fakeKey:
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/v1/templates":
		answer(map[string]any{"items": []any{map[string]any{"name": "minimal"}}})
	case r.Method == http.MethodDelete:
		note("control-plane destroys %s", filepath.Base(r.URL.Path))
		answer(map[string]any{"id": filepath.Base(r.URL.Path), "state": "stopped"})
	default:
		answer(map[string]any{"items": []any{map[string]any{"id": "sb-00000001", "state": "running"}}, "next_cursor": nil})
	}
}
