// Package firecracker drives Firecracker microVMs.
//
// A VM is one firecracker process in the VM's folder:
//
//	api.sock      its API, used to configure and start it
//	vsock.sock    Dial's way to the guest: CONNECT <port>\n, answered by OK <n>\n
//	console.pipe  its standard output, the guest's serial console
//	log.pipe      its log and its standard error, kept in vmm.log
//	metrics.pipe  its metrics
//
// All output goes through named pipes, never to files, as Firecracker bounds none of its files. The process holds each pipe
// for reading and writing and without blocking: while no agent reads, what does not fit into a pipe's 64 KiB is
// lost, and neither the guest nor the VMM ever waits or dies of SIGPIPE. An agent that comes back opens
// the pipes by name and reads on.
package firecracker

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// Name is the driver's name in vm.Info and vm.Saved.
const Name = "firecracker"

// The oldest Firecracker that the driver works with.
const minMajor, minMinor = 1, 6

// versionLimit bounds `firecracker --version`.
const versionLimit = 30 * time.Second

// Options are what New needs to know of the host.
type Options struct {
	Binary string // the firecracker executable; empty for the one on the PATH
}

// Driver is a vm.Driver. It does not judge whether KVM is usable, which package kvm does: on a
// host where it is not, Start fails with Firecracker's words.
type Driver struct {
	binary string
	info   vm.Info
	since  version // of info
}

// New returns a driver for the executable that o names, after asking its version. Without an executable the
// error is exec.ErrNotFound.
func New(ctx context.Context, o Options) (*Driver, error) {
	name := o.Binary
	if name == "" {
		name = Name
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("find firecracker: %w", err)
	}
	binary, err := filepath.Abs(found)
	if err != nil {
		return nil, fmt.Errorf("find firecracker: %w", err)
	}
	line, since, err := askVersion(ctx, binary)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", binary, err)
	}
	return &Driver{binary: binary, info: vm.Info{Driver: Name, Version: line, Accelerator: "kvm"}, since: since}, nil
}

// Info says what New found out.
func (d *Driver) Info() vm.Info { return d.info }

// Configure checks spec. Firecracker's own demands on it are checked here too, so that Start does not meet them.
func (d *Driver) Configure(_ context.Context, spec vm.Spec) (vm.Configured, error) {
	if err := spec.Check(); err != nil {
		return nil, fmt.Errorf("configure: %w", err)
	}
	if !instanceID.MatchString(spec.ID) {
		return nil, fmt.Errorf("configure: Firecracker takes no id like %q", spec.ID)
	}
	if line := cmdline(spec.Args); len(line) > maxCmdline {
		return nil, fmt.Errorf("configure %s: a kernel command line of %d bytes is longer than %d", spec.ID, len(line), maxCmdline)
	}
	files := filesOf(spec.Dir)
	if err := files.prepare(spec.Rootfs); err != nil {
		return nil, fmt.Errorf("configure %s: %w", spec.ID, err)
	}
	return &configured{driver: d, spec: spec, files: files}, nil
}

// instanceID is what Firecracker takes as --id (validate_instance_id of its src/utils/src/validators.rs), ASCII only.
var instanceID = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

var versionForm = regexp.MustCompile(`^Firecracker v(\d+)\.(\d+)\.`)

// version is a release of Firecracker.
type version struct{ major, minor int }

func (v version) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

// askVersion returns the first line of `firecracker --version`, and what it says.
func askVersion(ctx context.Context, binary string) (string, version, error) {
	ctx, cancel := context.WithTimeout(ctx, versionLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", version{}, fmt.Errorf("ask for the version: %w", err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	v, err := parseVersion(line)
	return line, v, err
}

func parseVersion(line string) (version, error) {
	parts := versionForm.FindStringSubmatch(line)
	if parts == nil {
		return version{}, fmt.Errorf("it says %q when asked for its version", vm.Printable(line))
	}
	major, errMajor := strconv.Atoi(parts[1])
	minor, errMinor := strconv.Atoi(parts[2])
	v := version{major, minor}
	if errMajor != nil || errMinor != nil || !v.atLeast(minMajor, minMinor) {
		return version{}, fmt.Errorf("%s is older than v%d.%d", line, minMajor, minMinor)
	}
	return v, nil
}
