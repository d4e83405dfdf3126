// Package fctest stands in for a Firecracker process in tests.
//
// It serves Firecracker's API socket as strictly as the published description (src/firecracker/swagger/firecracker.yaml)
// has it: unknown fields, wrong types, missing fields, values out of range, calls in the wrong state and ids that do
// not match are refused with status 400 and a fault_message. Where the description is stricter than the program, it
// follows the description. It opens the real files, TAPs and sockets. The guest is a Go function, reached
// through the vsock device's unix socket by the CONNECT handshake.
//
// A test checks a corpus of requests against this server and against a real Firecracker, so that
// the two cannot drift apart unseen.
package fctest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Version is what a Process says it is.
const Version = "1.16.1"

// Exit statuses of Firecracker, from FcExitCode in src/vmm/src/lib.rs.
const (
	exitOK        = 0
	exitGeneric   = 1
	exitArguments = 153
)

// Guest is what runs in the microVM. When it returns, the guest has restarted, and
// the process exits.
type Guest func(Hardware)

// Hardware is what a guest sees of its microVM.
type Hardware struct {
	Cmdline   string // the kernel's command line, with what Firecracker adds
	VCPUs     int
	MemoryMiB int
	Root      string                                  // the file of the root device; "" without one
	Console   io.Writer                               // the serial console; what nobody reads is lost
	Listen    func(port uint32) (net.Listener, error) // on the vsock device, whose driver is up from the first call on; fails without the device
	Wait      func()                                  // returns while the microVM is not paused
	Keep      func(save func() []byte)                // names what tells the guest's memory, for a snapshot
	Saved     []byte                                  // what it told when the guest was frozen that goes on now; nil after a boot
}

// Process is one Firecracker process.
type Process struct {
	Version string
	Guest   Guest
	Stdout  *os.File // the serial console
	Stderr  io.Writer

	id      string
	calls   map[string]call
	machine *machine
	ended   chan struct{} // closed when the guest has restarted
	guest   sync.WaitGroup
}

// Main is a firecracker executable: it parses args, which exclude the program's name, serves the API until the guest restarts,
// and returns the exit status.
func Main(args []string, guest Guest) int {
	p := &Process{Version: Version, Guest: guest, Stdout: os.Stdout, Stderr: os.Stderr}
	return p.Run(args)
}

// Run is Main for a process with chosen properties.
func (p *Process) Run(args []string) int {
	o, err := parseOptions(args)
	if err != nil {
		fmt.Fprintf(p.Stderr, "Arguments parsing error: %v\n", err)
		return exitArguments
	}
	if o.version {
		fmt.Fprintf(p.Stdout, "Firecracker v%s\n\n", p.Version)
		return exitOK
	}
	if err := p.serve(o); err != nil {
		fmt.Fprintf(p.Stderr, "Error: %v\n", err)
		return exitGeneric
	}
	return exitOK
}

func (p *Process) serve(o options) error {
	p.id, p.calls, p.machine, p.ended = o.id, calls(), newMachine(p.boot), make(chan struct{})
	defer p.machine.close()
	if err := errors.Join(p.openOutputs(o), readFilter(o.filter)); err != nil {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.apiSock, Net: "unix"})
	if err != nil {
		return fmt.Errorf("failed to bind the API socket: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	return p.serveAPI(listener)
}

// Filter is what a file must hold to be taken for a compiled seccomp filter.
const Filter = "a compiled filter"

func readFilter(file string) error {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("Filter file open error: %w", err) //nolint:staticcheck // Firecracker's words
	}
	if string(text) != Filter {
		return errors.New("Filter deserialization failed") //nolint:staticcheck // Firecracker's words
	}
	return nil
}

func (p *Process) openOutputs(o options) error {
	if o.logPath != "" {
		if err := p.machine.putLogger(body{"log_path": o.logPath}); err != nil {
			return fmt.Errorf("could not initialize the logger: %w", err)
		}
	}
	if o.metricsPath != "" {
		if err := p.machine.putMetrics(body{"metrics_path": o.metricsPath}); err != nil {
			return fmt.Errorf("could not initialize metrics: %w", err)
		}
	}
	return nil
}

// serveAPI serves until the guest restarts.
func (p *Process) serveAPI(listener net.Listener) error {
	server := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	var err error
	select {
	case <-p.ended:
		p.guest.Wait()
	case err = <-served:
	}
	// The call that started the guest may still wait for its answer to leave.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(err, server.Shutdown(ctx))
}

// boot starts the guest.
func (p *Process) boot(m *machine) error {
	h := Hardware{
		Cmdline: m.fullCmdline(), VCPUs: m.vcpus, MemoryMiB: m.memoryMiB, Root: m.root(), Console: dropping{p.Stdout},
		Listen: func(uint32) (net.Listener, error) { return nil, errors.New("no vsock device") },
		Wait:   m.gate.wait, Keep: func(save func() []byte) { m.mu.Lock(); m.save = save; m.mu.Unlock() }, Saved: m.saved,
	}
	if m.vsock != nil {
		h.Listen = m.vsock.listen
	}
	p.guest.Go(func() {
		defer close(p.ended)
		p.Guest(h)
	})
	return nil
}

// fullCmdline is the command line that the guest sees. Firecracker adds the root device.
func (m *machine) fullCmdline() string {
	if m.root() == "" {
		return m.cmdline + " pci=off"
	}
	return m.cmdline + " pci=off root=/dev/vda rw"
}

func (m *machine) root() string {
	for _, d := range m.drives {
		if d.root {
			return d.file.Name()
		}
	}
	return ""
}

// endIfFailed ends the process after a snapshot that could not be loaded, once the answer is out.
func (p *Process) endIfFailed() {
	if p.machine.failed {
		fmt.Fprintln(p.Stderr, "RunWithApiError error: failed to build microVM from snapshot")
		time.AfterFunc(20*time.Millisecond, func() { os.Exit(exitGeneric) })
	}
}

// record logs a refused call, as Firecracker does at its level Error.
func (p *Process) record(what string, err error) {
	if err == nil {
		return
	}
	out := p.Stdout
	if p.machine.log != nil {
		out = p.machine.log
	}
	_, _ = dropping{out}.Write(logLine(p.id, "fc_api", fmt.Sprintf("Received Error. Status code: 400 Bad Request. %s: %v", what, err)))
}
