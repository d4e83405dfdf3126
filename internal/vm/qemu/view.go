package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// Where a jailed QEMU finds what its VM is made of.
const (
	jailedKernel = jail.Own + "/kernel"
	jailedRootfs = jail.Own + "/rootfs"
	jailedMemory = jail.Own + "/memory"
)

// Devices, with their numbers of Documentation/admin-guide/devices.txt of Linux. QEMU tries locks on /dev/null, and where there is none its last
// words are always that.
var (
	nullDevice = jail.Device{Path: "/dev/null", Major: 1, Minor: 3}
	kvmDevice  = jail.Device{Path: "/dev/kvm", Major: 10, Minor: 232}
)

// openView makes the view of every jailed QEMU: the program, the libraries that it is linked with, its modules and its
// firmware. Nothing else of the host is needed: disk and kernel are bound in, sockets and TAP are descriptors. So is memory that is shared, which QEMU
// opens by the name that it has in /proc/self.
func (d *Driver) openView(ctx context.Context) (*jail.View, error) {
	libraries, err := linkedWith(ctx, d.binary)
	if err != nil {
		return nil, err
	}
	data, err := dataFolders(ctx, d.binary)
	if err != nil {
		return nil, err
	}
	files := append(append([]string{d.binary}, libraries...), append(data, modules(d.binary)...)...)
	devices := []jail.Device{nullDevice}
	if d.info.Accelerator == KVM {
		devices = append(devices, kvmDevice)
	}
	return jail.NewView(jail.Contents{Files: asBinds(existing(append(files, "/etc/ld.so.cache"))), Devices: devices, Self: true})
}

func asBinds(files []string) []jail.Bind {
	binds := make([]jail.Bind, len(files))
	for i, file := range files {
		binds[i] = jail.Bind{From: file, To: file, Exec: true}
	}
	return binds
}

// linkedWith returns the libraries of a program and its loader, as the loader itself finds them: ld.so(8), LD_TRACE_LOADED_OBJECTS. A
// program without a loader prints its version.
func linkedWith(ctx context.Context, binary string) ([]string, error) {
	output, err := ask(ctx, binary, []string{"LD_TRACE_LOADED_OBJECTS=1"}, "--version")
	if err != nil {
		return nil, err
	}
	var files []string
	for field := range strings.FieldsSeq(string(output)) {
		if filepath.IsAbs(field) {
			files = append(files, filepath.Clean(field))
		}
	}
	return files, nil
}

// dataFolders returns where QEMU looks for firmware.
func dataFolders(ctx context.Context, binary string) ([]string, error) {
	output, err := ask(ctx, binary, nil, "-L", "help")
	if err != nil {
		return nil, err
	}
	var dirs []string
	for line := range bytes.Lines(output) {
		if dir := strings.TrimSpace(string(line)); filepath.IsAbs(dir) {
			dirs = append(dirs, filepath.Clean(dir))
		}
	}
	return dirs, nil
}

// modules returns the folders, of those that distributions use, in which QEMU's accelerators may lie as modules.
func modules(binary string) []string {
	prefix := filepath.Dir(filepath.Dir(binary))
	return []string{
		filepath.Join(prefix, "lib/x86_64-linux-gnu/qemu"), filepath.Join(prefix, "lib64/qemu"), filepath.Join(prefix, "lib/qemu"),
	}
}

func existing(files []string) []string {
	var found []string
	for _, file := range files {
		if _, err := os.Stat(file); err == nil {
			found = append(found, file)
		}
	}
	return found
}

// askLimit bounds ask, which takes 50 ms on an idle host. One that is busy, or emulated, needs many times that.
const askLimit = time.Minute

// ask runs QEMU for something that it prints and exits.
func ask(ctx context.Context, binary string, env []string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), env...)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ask %s %s: %w: %s", binary, strings.Join(args, " "), err, vm.LastWords(output, 2))
	}
	return output, nil
}

// confine returns the jail of a VM, and what the VM is made of as the jail shows it; without a Spec.Jail nil, and c itself. It gives
// the disk to the VM's user. A copy of the memory is yet to be filled.
func (c *configured) confine() (_ *jail.Confinement, _ *configured, err error) {
	own := c.spec.Jail
	if own == nil {
		return nil, c, nil
	}
	if err := jail.Give(c.spec.Rootfs, own.Owner); err != nil {
		return nil, nil, err
	}
	shown := *c
	shown.spec.Rootfs = jailedRootfs
	j := &jail.Confinement{
		Owner: own.Owner, Cgroup: own.Cgroup, View: c.driver.view,
		Binds: []jail.Bind{{From: c.spec.Rootfs, To: jailedRootfs, Writable: true}},
	}
	if c.memory == "" {
		shown.spec.Kernel = jailedKernel
		j.Binds = append(j.Binds, jail.Bind{From: c.spec.Kernel, To: jailedKernel})
		return j, &shown, nil
	}
	if c.shared != nil {
		shown.memory = fmt.Sprintf("/proc/self/fd/%d", c.sharedFD())
		return j, &shown, nil
	}
	if c.own, err = makeMemory(c.spec.Dir, own.Owner); err != nil {
		return nil, nil, err
	}
	shown.memory = jailedMemory
	j.Binds = append(j.Binds, jail.Bind{From: c.own.path, To: jailedMemory, Writable: true})
	return j, &shown, nil
}

// sharedFD is the descriptor by which QEMU has the memory that it shares: the one after all others.
func (c *configured) sharedFD() int {
	if c.spec.NIC == nil {
		return tapFD
	}
	return tapFD + 1
}

// wakingMemory is how much of the memory is read while QEMU starts: more than a guest needs to wake and run a program, and all that small ones have.
const wakingMemory = 128 << 20

// ownMemory is a copy of a snapshot's memory, which is its VM's user's when it is complete: QEMU opens the file for writing, also to map it privately, and what is a snapshot's must
// be out of reach of a QEMU that was taken over. Its name goes once QEMU has it: it is the VM's alone, and ends with it. Methods of a nil one, of a VM that needs none, do nothing.
type ownMemory struct {
	path  string
	owner uint32
	file  *os.File
}

// makeMemory makes the file, of which nobody but root may open the name yet.
func makeMemory(dir string, owner uint32) (*ownMemory, error) {
	o := &ownMemory{path: filepath.Join(dir, "memory"), owner: owner}
	err := os.RemoveAll(o.path) // of a start that was killed
	if err == nil {
		o.file, err = os.OpenFile(o.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("copy the snapshot's memory: %w", err)
	}
	return o, nil
}

// fill makes the copy, and gives it away.
func (o *ownMemory) fill(ctx context.Context, memory string) error {
	if o == nil {
		return nil
	}
	from, err := os.Open(memory)
	if err == nil {
		_, err = clone.Into(ctx, from, o.file)
		err = errors.Join(err, from.Close())
	}
	if err != nil {
		return fmt.Errorf("copy the snapshot's memory: %w", err)
	}
	go func() { _ = clone.ReadAhead(o.path, wakingMemory) }() // as it is only sooner that way
	return jail.Give(o.path, o.owner)
}

// close lets go of the file, whose name goes.
func (o *ownMemory) close() error {
	if o == nil {
		return nil
	}
	return errors.Join(o.file.Close(), os.Remove(o.path))
}

// openNIC returns the VM's TAP as a descriptor: a QEMU needs neither the device file nor the network namespace then.
func openNIC(nic *vm.NIC) ([]*os.File, error) {
	if nic == nil {
		return nil, nil
	}
	tap, err := vmm.OpenTAP(nic.TAP)
	if err != nil {
		return nil, err
	}
	return []*os.File{tap}, nil
}
