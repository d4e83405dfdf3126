// Package guestapp is what the suite's test guest does once it is reachable: it answers, misbehaves and ends
// on request. The program guest runs it as PID 1 of a real VM; a simulated VMM may run it in
// place of one.
package guestapp

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Ports of the guest: HTTP is where a real guest has its envd, Echo returns every byte, Discard takes what
// Send sends, Source gives what Receive asks for.
const (
	HTTPPort    = 49983
	EchoPort    = 7
	DiscardPort = 9
	SourcePort  = 19
)

// Ports returns all of them.
func Ports() []uint32 { return []uint32{HTTPPort, EchoPort, DiscardPort, SourcePort} }

// Kernel arguments that change what the guest does.
const (
	Hang           = "guest.hang"            // it never listens
	IgnoreShutdown = "guest.ignore_shutdown" // POST /shutdown is answered and then ignored
)

// FloodEnd is the last line that POST /flood writes to the console.
const FloodEnd = "the flood has ended"

// App is one guest.
type App struct {
	Args    []string  // the kernel's command line
	Console io.Writer // the serial console
	Panic   func()    // makes the kernel panic
	Exit    func()    // ends PID 1, which makes the kernel panic too
	Restart func()    // restarts the machine, which ends the VMM
	CPUs    int       // how many there are; 0 for what the runtime sees
	Memory  *Memory
	// Disk is where files are kept where they are not the operating system's own.
	Disk interface {
		ReadFile(path string) ([]byte, error)
		WriteFile(path string, data []byte) error
	}
}

// Hangs reports whether the guest is to do nothing at all.
func (a App) Hangs() bool { return slices.Contains(a.Args, Hang) }

// Serve answers on listener as port would be answered, until listener fails.
func (a App) Serve(listener net.Listener, port uint32) error {
	switch port {
	case HTTPPort:
		server := http.Server{Handler: a.handler(), ReadHeaderTimeout: time.Minute}
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve HTTP: %w", err)
		}
		return nil
	case EchoPort:
		return each(listener, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	case DiscardPort:
		return each(listener, discard)
	case SourcePort:
		return each(listener, source)
	}
	return fmt.Errorf("nothing is served on port %d", port)
}

// each serves every connection of listener, until it fails.
func each(listener net.Listener, serve func(net.Conn)) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accept a connection: %w", err)
		}
		go func() {
			defer conn.Close()
			serve(conn)
		}()
	}
}

func (a App) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /cmdline", func(w http.ResponseWriter, _ *http.Request) { reply(w, strings.Join(a.Args, " ")) })
	mux.HandleFunc("GET /cpus", func(w http.ResponseWriter, _ *http.Request) { reply(w, strconv.Itoa(cmp.Or(a.CPUs, runtime.NumCPU()))) })
	mux.HandleFunc("POST /digest", digest)
	mux.HandleFunc("POST /write", a.write)
	mux.HandleFunc("GET /read", a.read)
	mux.HandleFunc("POST /memory", a.Memory.fill)
	mux.HandleFunc("GET /memory", a.Memory.show)
	mux.HandleFunc("GET /ticks", a.Memory.count)
	mux.HandleFunc("POST /flood", a.flood)
	mux.HandleFunc("POST /burn", burn)
	mux.HandleFunc("POST /hoard", hoard)
	mux.HandleFunc("POST /shutdown", a.shutdown)
	mux.HandleFunc("POST /panic", after(a.Panic))
	mux.HandleFunc("POST /exit", after(a.Exit))
	mux.HandleFunc("POST /restart", after(a.Restart))
	return mux
}

// reply ignores that a client may have gone.
func reply(w io.Writer, text string) { _, _ = io.WriteString(w, text) }

func digest(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	if _, err := io.Copy(sum, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply(w, hex.EncodeToString(sum.Sum(nil)))
}

// write puts the body into the file ?path=, to show that the disk is writable; with ?sync it is written to the disk at once.
func (a App) write(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	body, err := io.ReadAll(r.Body)
	switch {
	case err != nil:
	case a.Disk != nil:
		err = a.Disk.WriteFile(path, body)
	default:
		err = os.WriteFile(path, body, 0o600)
	}
	if err == nil && r.URL.Query().Has("sync") {
		unix.Sync()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// read answers with the file ?path=.
func (a App) read(w http.ResponseWriter, r *http.Request) {
	read := os.ReadFile
	if a.Disk != nil {
		read = a.Disk.ReadFile
	}
	text, err := read(r.URL.Query().Get("path"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(text)
}

// flood writes about ?bytes= bytes to the console, then FloodEnd, and answers when the console took
// them all, or at once with ?wait=no.
func (a App) flood(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.Atoi(r.URL.Query().Get("bytes"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if r.URL.Query().Get("wait") == "no" {
		go a.writeFlood(context.WithoutCancel(r.Context()), size)
		return
	}
	a.writeFlood(r.Context(), size)
}

func (a App) writeFlood(ctx context.Context, size int) {
	line := strings.Repeat("flood ", 20) + "\n"
	for n := 0; n < size && ctx.Err() == nil; n += len(line) {
		_, _ = io.WriteString(a.Console, line)
	}
	_, _ = io.WriteString(a.Console, FloodEnd+"\n")
}

func (a App) shutdown(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(a.Args, IgnoreShutdown) {
		after(a.Restart)(w, r)
	}
}

// after answers, and then calls end once the answer had a moment to leave.
func after(end func()) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		_ = http.NewResponseController(w).Flush()
		time.AfterFunc(20*time.Millisecond, end)
	}
}
