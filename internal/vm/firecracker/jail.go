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
	owner, root := strconv.FormatUint(uint64(c.spec.Jail.Owner), 10), c.driver.jailRoot(c.spec)
	args := []string{
		"--id", c.spec.ID, "--exec-file", c.driver.binary, "--uid", owner, "--gid", owner,
		"--chroot-base-dir", filepath.Join(c.spec.Dir, jailFolder), "--resource-limit", "no-file=" + strconv.Itoa(jail.MaxFiles), "--",
	}
	binds := []jail.Bind{
		{From: c.spec.Kernel, To: filepath.Join(root, jailedKernel)},
		{From: c.spec.Rootfs, To: filepath.Join(root, jailedRootfs), Writable: true},
	}
	if c.driver.filter != "" {
		binds = append(binds, jail.Bind{From: c.driver.filter, To: filepath.Join(root, jailedFilter)})
	}
	return vmm.Command{
		Path: c.driver.jailer, Args: slices.Concat(args, c.arguments(c.places())),
		Jail: &jail.Confinement{Cgroup: c.spec.Jail.Cgroup, Binds: binds},
	}, nil
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
	if c.spec.NIC == nil {
		return nil
	}
	return vmm.GiveTAP(c.spec.NIC.TAP, c.spec.Jail.Owner) // Firecracker opens it by its name
}

// places are the paths by which Firecracker finds what it opens by name.
type places struct{ kernel, rootfs, api, vsock, log, metrics, filter string }

func (c *configured) places() places {
	filter := c.driver.filter
	if c.spec.Jail != nil {
		if filter != "" {
			filter = jailedFilter
		}
		return places{jailedKernel, jailedRootfs, "/" + apiSocket, "/" + vsockSocket, jailedLog, jailedMetrics, filter}
	}
	in := func(name string) string { return filepath.Join(c.files.dir, name) }
	return places{c.spec.Kernel, c.spec.Rootfs, in(apiSocket), in(vsockSocket), c.files.log, c.files.metrics, filter}
}

func (c *configured) arguments(p places) []string {
	return slices.Concat(
		[]string{"--api-sock", p.api, "--log-path", p.log, "--level", string(api.LogWarning), "--metrics-path", p.metrics}, filterArguments(p.filter),
	)
}
