// A guest has the processors that it was made with, and its runtime no need to look again.
//
//go:debug updatemaxprocs=0

// envd is the first and only process of ours in a sandbox: its PID 1, and the server
// through which the host runs programs and moves files in it.
//
// As PID 1 it takes what it needs to know from the kernel's arguments (package boot) and
// from the host (POST /init). Anywhere else it is a development server on TCP.
package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/wrenn-sandbox/wrenn/envd/internal/boot"
	"github.com/wrenn-sandbox/wrenn/envd/internal/listen"
	"github.com/wrenn-sandbox/wrenn/envd/internal/pressure"
	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
	"github.com/wrenn-sandbox/wrenn/envd/internal/server"
	"github.com/wrenn-sandbox/wrenn/envd/internal/shutdown"
	"github.com/wrenn-sandbox/wrenn/envd/internal/timerslack"
	"golang.org/x/sys/unix"
)

// gcPercent makes the garbage collector run at half the usual heap. envd has little
// garbage, and each page that it touches is one that a clone does not share.
const gcPercent = 50

// version is set by the linker: -X main.version=...
var version = "dev"

func main() {
	if os.Getpid() == 1 {
		runGuest()
	}
	if err := runDevelopment(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "envd:", err)
		os.Exit(1)
	}
}

// runGuest is the life of a guest: boot, serve, end. It does not return.
func runGuest() {
	debug.SetGCPercent(gcPercent)
	console := boot.OpenConsole()
	guest := shutdown.New(console)
	defer guest.EndOnPanic()
	machine := boot.Guest(console)
	reaper, err := reap.New(reap.Options{Cgroup: machine.Cgroup})
	if err != nil {
		guest.End("start the reaper: " + err.Error())
	}
	guest.Reaper = reaper
	if err := timerslack.Set(timerslack.Lazy); err != nil {
		_, _ = fmt.Fprintf(console, "envd: %v\n", err) // it is slower then
	}
	go guest.EndOnSignal()
	go guardMemory(console, machine.Cgroup, reaper)
	if err := serveGuest(console, guest, machine); err != nil {
		guest.End("the server: " + err.Error())
	}
	select {} // the server was closed by the guest's end, which is under way
}

// guardMemory kills programs that keep the guest from making headway for want of memory, and says on the console if it cannot.
func guardMemory(console io.Writer, cgroup string, reaper *reap.Reaper) {
	err := killForMemory(console, cgroup, reaper)
	_, _ = fmt.Fprintf(console, "envd: nobody watches the pressure on memory: %v\n", err)
}

// killForMemory says on the console whom it kills, and returns when it cannot go on.
func killForMemory(console io.Writer, cgroup string, reaper *reap.Reaper) error {
	watcher, err := pressure.New(cgroup)
	if err != nil {
		return err
	}
	defer watcher.Close()
	for {
		if err := watcher.Wait(); err != nil {
			return err
		}
		said := "killed "
		victim, failure := reaper.KillLargest()
		if failure != nil { // it has ended, most likely; if the pressure has not, Wait says so again
			said = failure.Error()
		}
		_, _ = fmt.Fprintf(console, "envd: out of memory: %s%s\n", said, victim)
	}
}

// serveGuest serves the host until the transport fails for good.
func serveGuest(console io.Writer, guest *shutdown.Guest, machine *boot.Machine) error {
	s := server.New(server.Options{
		Version:     version,
		Logger:      slog.New(slog.NewTextHandler(console, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Shutdown:    func(reason string) { go guest.End(reason) },
		Reconfigure: machine.Apply,
		Resume:      machine.Resume,
		Scrub:       machine.Scrub,
		Sync:        machine.Sync,
		ResumeHooks: "/etc/wrenn/resume.d",
		Reaper:      guest.Reaper,
		Direct:      true,
	})
	guest.Stop = func() { _ = s.Close() }
	listener, err := listen.New(machine.Transport)
	if err != nil {
		return err
	}
	return s.Serve(listener)
}

// runDevelopment serves on TCP, as the user who starts it and without a token until an
// /init sets one.
func runDevelopment(args []string) error {
	flags := flag.NewFlagSet("envd", flag.ContinueOnError)
	address := flags.String("listen", fmt.Sprintf("127.0.0.1:%d", listen.Port), "TCP address of the development server")
	printVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *printVersion {
		fmt.Println(version)
		return nil
	}
	listener, err := listen.TCP(*address)
	if err != nil {
		return err
	}
	return serveDevelopment(listener)
}

func serveDevelopment(listener net.Listener) error {
	reaper, err := reap.New(reap.Options{})
	if err != nil {
		return err
	}
	defer reaper.Close()
	s := server.New(server.Options{
		Version: version,
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Debug:   true,
		Reaper:  reaper,
	})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	go func() {
		<-signals
		_ = s.Close()
	}()
	fmt.Fprintln(os.Stderr, "envd: development server on", listener.Addr())
	return s.Serve(listener)
}
