// Package firecracker drives Firecracker microVMs.
//
// A VM is one firecracker process in the VM's folder:
//
//	console.pipe  its standard output, the guest's serial console
//	log.pipe      its log and its standard error, kept in vmm.log
//	metrics.pipe  its metrics
//	memory.base, memory.tracked  what the next snapshot can begin with (files.go)
//	root          its jail (jail.go), or a link to the folder itself where the operator wants no jails. In it:
//	  api.sock    its API, used to configure and start it
//	  vsock.sock  Dial's way to the guest: CONNECT <port>\n, answered by OK <n>\n
//
// All output goes through named pipes, never to files, as Firecracker bounds none of its files. The process holds each pipe
// for reading and writing and without blocking: while no agent reads, what does not fit into a pipe's 64 KiB is
// lost, and neither the guest nor the VMM ever waits or dies of SIGPIPE. An agent that comes back opens
// the pipes by name and reads on.
package firecracker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/uffd"
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
	Jailer string // the jailer of the same release; empty for the one on the PATH
	// Unjailed allows VMs without a Spec.Jail, and no others: Firecracker runs as this program's user. No jailer is needed then.
	Unjailed bool
	// SeccompFilter is a file that seccompiler-bin of the same release has compiled, for a Firecracker that was built without a filter; empty for
	// the one that is built in. Every user must be able to read it.
	SeccompFilter string
	// Pager is the path of a program that calls pager.Main, and its arguments; empty for none: then nothing is restored whose memory comes later.
	Pager []string
}

// Driver is a vm.Driver. It does not judge whether KVM is usable, which package kvm does: on a
// host where it is not, Start fails with Firecracker's words.
type Driver struct {
	binary string
	jailer string // "" if Unjailed
	filter string // "" for the one that is built in
	pager  []string
	info   vm.Info
	since  version // of info
}

// What a Firecracker takes beside its guest's memory, in MiB: TestLimitsFirecracker holds it. Besides the threads of the processors it has
// two, its jailer one, and KVM counts two of the kernel to it.
const overheadMiB, processes = 24, 8

// New returns a driver for the executables that o names, after asking their versions. Without one of them the
// error is exec.ErrNotFound.
func New(ctx context.Context, o Options) (*Driver, error) {
	binary, version, err := find(ctx, cmp.Or(o.Binary, Name), "Firecracker ")
	if err != nil {
		return nil, fmt.Errorf("find firecracker: %w", err)
	}
	since, err := parseVersion(version)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", binary, err)
	}
	filter, err := findFilter(o.SeccompFilter)
	if err != nil {
		return nil, fmt.Errorf("find the seccomp filter: %w", err)
	}
	d := &Driver{binary: binary, filter: filter, pager: o.Pager, since: since, info: vm.Info{
		Driver: Name, Version: version, Accelerator: "kvm", OverheadMiB: overheadMiB, Processes: processes,
	}}
	if !since.atLeast(1, 12) {
		d.info.NoRestore = version + " cannot give a restored VM a TAP, which Firecracker 1.12 can"
	}
	d.info.Lazy = len(o.Pager) > 0 && d.info.NoRestore == "" && canServe(!o.Unjailed)
	if o.Unjailed {
		return d, nil
	}
	jailer, its, err := find(ctx, cmp.Or(o.Jailer, "jailer"), "Jailer ")
	if err != nil {
		return nil, fmt.Errorf("find firecracker's jailer: %w", err)
	}
	if strings.TrimPrefix(its, "Jailer ") != strings.TrimPrefix(version, "Firecracker ") {
		return nil, fmt.Errorf("%s and %s are not of the same release", version, its)
	}
	d.jailer = jailer
	return d, nil
}

// canServe reports whether a Firecracker can have its memory served: one in a jail, which has no privilege, needs the device, which its jailer makes for it.
func canServe(jailed bool) bool {
	if _, err := os.Stat(uffd.Device); jailed && err != nil {
		return false
	}
	f, err := uffd.Create(uffd.EventRemove)
	return err == nil && f.Close() == nil
}

// find returns the path of an executable itself, and what it says when asked for its version.
func find(ctx context.Context, name, says string) (path, version string, err error) {
	if path, err = exec.LookPath(name); err != nil {
		return "", "", err
	}
	if path, err = filepath.EvalSymlinks(path); err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", "", err
	}
	version, err = askVersion(ctx, path)
	if err == nil && !strings.HasPrefix(version, says) {
		err = fmt.Errorf("it says %q when asked for its version", vm.Printable(version))
	}
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", path, err)
	}
	return path, version, nil
}

// findFilter returns the path of the file itself. In a jail it is read by the VM's user.
func findFilter(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	path, err := filepath.EvalSymlinks(file)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Mode().Perm()&0o444 != 0o444) {
		err = fmt.Errorf("%s is no file that every user can read", path)
	}
	return path, err
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
	if err := d.checkJail(spec); err != nil {
		return nil, fmt.Errorf("configure %s: %w", spec.ID, err)
	}
	files := filesOf(spec.Dir)
	if err := files.prepare(d.jailRoot(spec), spec.Rootfs); err != nil {
		return nil, fmt.Errorf("configure %s: %w", spec.ID, err)
	}
	return &configured{driver: d, spec: spec, files: files}, nil
}

func (d *Driver) checkJail(spec vm.Spec) error {
	if (spec.Jail == nil) != (d.jailer == "") {
		return errors.New("it has a jail and the driver was opened without, or the reverse")
	}
	return nil
}

// instanceID is what Firecracker takes as --id (validate_instance_id of its src/utils/src/validators.rs), ASCII only.
var instanceID = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

var versionForm = regexp.MustCompile(`^Firecracker v(\d+)\.(\d+)\.`)

// version is a release of Firecracker.
type version struct{ major, minor int }

func (v version) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

// askVersion returns the first line of what `--version` prints.
func askVersion(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask for the version: %w", err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line, nil
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
