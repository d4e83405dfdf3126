// Command guest is the suite's test guest: PID 1 of a VM of which it is the only program. What
// it does once it is reachable is in package guestapp.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest/guestapp"
)

func main() {
	err := live()
	fmt.Fprintln(os.Stderr, "guest:", err)
	os.Exit(1) // the kernel panics
}

// live never returns without an error.
func live() error {
	if err := mount(); err != nil {
		return err
	}
	if err := beLazy(); err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	app := guestapp.App{
		Args:    strings.Fields(string(text)),
		Console: os.Stderr,
		Panic:   crash,
		Exit:    func() { os.Exit(3) },
		Restart: restart,
		Memory:  guestapp.NewMemory(func() {}),
	}
	for app.Hangs() {
		_ = unix.Pause() // not an empty select, which Go ends as a deadlock
	}
	return serve(app)
}

func serve(app guestapp.App) error {
	if address := argument(app, "wrenn.ip"); address != "" {
		if err := configureNetwork(address); err != nil {
			return err
		}
		if err := serveTCP(app); err != nil {
			return err
		}
	}
	switch transport := argument(app, "wrenn.transport"); transport {
	case "virtio-serial":
		return serveSerial(app)
	case "vsock":
		return serveVsock(app)
	default:
		return fmt.Errorf("wrenn.transport=%q is not known", transport)
	}
}

// argument returns the value of a kernel argument, "" if it is missing.
func argument(app guestapp.App, name string) string {
	for _, arg := range app.Args {
		if value, found := strings.CutPrefix(arg, name+"="); found {
			return value
		}
	}
	return ""
}

func mount() error {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

// serveTCP serves the echo port on the network device.
func serveTCP(app guestapp.App) error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf(":%d", guestapp.EchoPort))
	if err != nil {
		return err
	}
	go func() { fmt.Fprintln(os.Stderr, "guest:", app.Serve(listener, guestapp.EchoPort)) }()
	return nil
}

func crash() {
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
		fmt.Fprintln(os.Stderr, "guest: crash:", err)
	}
}

func restart() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Fprintln(os.Stderr, "guest: restart:", err)
	}
}
