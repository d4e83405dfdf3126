package firecracker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/api"
	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// What a jailed Firecracker finds in its root, beside its own program and the devices that the jailer makes. The names are the same for every
// VM, so that a snapshot of one fits in another's jail.
const (
	jailedKernel  = "/kernel"
	jailedRootfs  = "/rootfs.ext4"
	jailedLog     = "/log.pipe"
	jailedMetrics = "/metrics.pipe"
	jailedFilter  = "/seccomp.bpf"

	jailedState  = "/from.state" // of the snapshot that the VM is restored from
	jailedMemory = "/from.memory"

	writtenState  = "/to.state" // of one that Firecracker writes
	writtenMemory = "/to.memory"
)

// jailRoot is the folder that the jailer makes a VM's root, "" for a VM without a jail: <base>/<program>/<id>/root, as in
// Firecracker's docs/jailer.md.
func (d *Driver) jailRoot(s vm.Spec) string {
	if s.Jail == nil {
		return ""
	}
	return filepath.Join(s.Dir, jailFolder, filepath.Base(d.binary), s.ID, "root")
}

// command returns how Firecracker is started, by the jailer if the VM has a jail. The jailer does not fork but becomes Firecracker: the pid namespace,
// the cgroup and the binds are made by vmm.Spawn, for with its --new-pid-ns the jailer would end and leave a process behind that is nobody's
// child, whose pid stands in a file and whose exit status nobody learns.
func (c *configured) command() (vmm.Command, error) {
	if c.spec.Jail == nil {
		return vmm.Command{Path: c.driver.binary, Args: append([]string{"--id", c.spec.ID}, c.arguments(c.places())...)}, nil
	}
	if err := c.furnish(); err != nil {
		return vmm.Command{}, err
	}
	owner := strconv.FormatUint(uint64(c.spec.Jail.Owner), 10)
	args := []string{
		"--id", c.spec.ID, "--exec-file", c.driver.binary, "--uid", owner, "--gid", owner,
		"--chroot-base-dir", filepath.Join(c.spec.Dir, jailFolder), "--resource-limit", "no-file=" + strconv.Itoa(jail.MaxFiles), "--",
	}
	return vmm.Command{
		Path: c.driver.jailer, Args: slices.Concat(args, c.arguments(c.places())),
		Jail: &jail.Confinement{Cgroup: c.spec.Jail.Cgroup, Binds: c.binds()},
	}, nil
}

// binds are what the jail shows of the host: the disk, and what the VM is booted or restored from, which its user can only read.
func (c *configured) binds() []jail.Bind {
	in := func(name string) string { return filepath.Join(c.driver.jailRoot(c.spec), name) }
	binds := []jail.Bind{{From: c.spec.Rootfs, To: in(jailedRootfs), Writable: true}}
	if c.driver.filter != "" {
		binds = append(binds, jail.Bind{From: c.driver.filter, To: in(jailedFilter)})
	}
	if c.from == nil {
		return append(binds, jail.Bind{From: c.spec.Kernel, To: in(jailedKernel)})
	}
	binds = append(binds, jail.Bind{From: c.from.State, To: in(jailedState)})
	if c.lazy == nil {
		binds = append(binds, jail.Bind{From: c.from.Memory, To: in(jailedMemory)})
	}
	return binds
}

// furnish gives the VM's user its disk, its TAP, and its ends of the pipes, which get a second name in the jail. The first one is where that user cannot
// reach it, so that an agent that comes back opens what it made itself.
func (c *configured) furnish() error {
	root := c.driver.jailRoot(c.spec)
	for outside, inside := range map[string]string{c.files.log: jailedLog, c.files.metrics: jailedMetrics} {
		if err := os.Link(outside, filepath.Join(root, inside)); err != nil {
			return fmt.Errorf("furnish the jail: %w", err)
		}
	}
	for _, path := range []string{c.spec.Rootfs, c.files.log, c.files.metrics} {
		if err := jail.Give(path, c.spec.Jail.Owner); err != nil {
			return err
		}
	}
	if err := c.show(); err != nil {
		return err
	}
	if c.spec.NIC == nil {
		return nil
	}
	return vmm.GiveTAP(c.spec.NIC.TAP, c.spec.Jail.Owner) // Firecracker opens it by its name
}

// show lets the VM's user read what it is restored from.
func (c *configured) show() error {
	if c.from == nil {
		return nil
	}
	if err := jail.Show(c.from.State); err != nil || c.lazy != nil {
		return err
	}
	return jail.Show(c.from.Memory)
}

// places are the paths by which Firecracker finds what it opens by name.
type places struct{ kernel, rootfs, api, vsock, pager, log, metrics, filter string }

func (c *configured) places() places {
	p := placesOf(c.spec, c.files)
	p.filter = c.driver.filter
	if p.filter != "" && c.spec.Jail != nil {
		p.filter = jailedFilter
	}
	return p
}

// placesOf: those of disk and vsock become part of snapshots. Without a jail they are names in the VM's folder, which is Firecracker's working
// directory, so that they mean another VM's own files when it is restored.
func placesOf(spec vm.Spec, f files) places {
	if spec.Jail != nil {
		return places{kernel: jailedKernel, rootfs: jailedRootfs, api: "/" + apiSocket, vsock: "/" + vsockSocket, pager: "/" + pagerSocket, log: jailedLog, metrics: jailedMetrics}
	}
	return places{kernel: spec.Kernel, rootfs: diskLink, api: filepath.Join(f.dir, apiSocket), vsock: vsockSocket, pager: pagerSocket, log: f.log, metrics: f.metrics}
}

// source are the paths by which Firecracker finds the snapshot that it restores.
func (c *configured) source() vm.Files {
	if c.spec.Jail != nil {
		return vm.Files{State: jailedState, Memory: jailedMemory}
	}
	return *c.from
}

func (c *configured) arguments(p places) []string {
	return slices.Concat(
		[]string{"--api-sock", p.api, "--log-path", p.log, "--level", string(api.LogWarning), "--metrics-path", p.metrics}, filterArguments(p.filter),
	)
}
