package firecracker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/api"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// maxCmdline is CMDLINE_MAX_SIZE of Firecracker's src/vmm/src/arch/x86_64/layout.rs, less its final NUL and 256 bytes for
// what Firecracker adds: the root device, and a virtio_mmio.device= for each device.
const maxCmdline = 2047 - 256

// guestCID is the guest's vsock address. It need not be unique on the host, as each VM has a socket of its own.
const guestCID = 3

// nicID is how the API knows the network interface.
const nicID = "eth0"

// cmdline is the kernel's command line. reboot=k: a restart of the guest, or a panic, writes 0xFE to port 0x64, which
// Firecracker takes as the order to exit; the guest needs no keyboard driver for it. pci=off: there is no PCI bus.
func cmdline(args []string) string {
	const own = "console=ttyS0 reboot=k panic=-1 pci=off quiet init=/usr/local/bin/envd wrenn.transport=vsock"
	return strings.Join(append([]string{own}, args...), " ")
}

// configured is a vm.Configured.
type configured struct {
	driver *Driver
	spec   vm.Spec
	from   *vm.Files // what it is restored from; nil for a VM that is booted
	lazy   *vm.Lazy  // nil where the memory is there
	files  files
}

// Start spawns Firecracker, configures it through its API, and starts the guest.
func (c *configured) Start(ctx context.Context) (vm.Running, error) {
	v, err := c.launch(ctx)
	if err == nil {
		err = c.boot(ctx, v)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.spec.ID, v.abandon(err)) //nolint:contextcheck // it undoes, also after ctx ended
	}
	return v, nil
}

// launch spawns a Firecracker and waits for its API. With an error too it returns what was spawned, or nil.
func (c *configured) launch(ctx context.Context) (*VM, error) {
	out, err := openOutputs(c.files)
	if err != nil {
		return nil, err
	}
	process, err := c.spawn(ctx, out)
	out.spawned()
	if err != nil {
		return nil, errors.Join(err, out.close())
	}
	v := newVM(c.files, c.saved(process.Identity()), process, out)
	return v, v.awaitSocket(ctx)
}

func (c *configured) spawn(ctx context.Context, out *outputs) (*vmm.Process, error) {
	command, err := c.command()
	if err != nil {
		return nil, err
	}
	command.Dir, command.Stdout, command.Stderr = c.files.dir, out.consoleWriter, out.logWriter
	return vmm.Spawn(ctx, command)
}

// saved is what Adopt needs of a Firecracker that was started.
func (c *configured) saved(id vmm.Identity) vm.Saved {
	saved := vm.Saved{
		Driver: Name, Dir: c.files.dir, PID: id.PID, StartTime: id.StartTime, BootID: id.BootID, Machine: c.driver.Machine(c.spec),
	}
	if c.spec.Jail != nil {
		saved.Cgroup, saved.Owner = c.spec.Jail.Cgroup, c.spec.Jail.Owner
	}
	return saved
}

// boot returns when the guest runs. Every call of the API has a deadline of its own.
func (c *configured) boot(ctx context.Context, v *VM) error {
	for _, step := range []func(context.Context, *api.Client) error{c.putMachine, c.putDevices, c.putNIC} {
		if err := step(ctx, v.api); err != nil {
			return err
		}
	}
	v.booted.Store(true)
	return v.api.Act(ctx, api.InstanceStart)
}

func (c *configured) putMachine(ctx context.Context, a *api.Client) error {
	err := a.PutMachineConfig(ctx, api.MachineConfig{VCPUCount: c.spec.VCPUs, MemSizeMiB: c.spec.MemoryMiB})
	if err != nil {
		return err
	}
	return a.PutBootSource(ctx, api.BootSource{KernelImagePath: c.places().kernel, BootArgs: cmdline(c.spec.Args)})
}

// putDevices adds what every VM has.
func (c *configured) putDevices(ctx context.Context, a *api.Client) error {
	if err := a.PutDrive(ctx, rootDrive(c.places())); err != nil {
		return err
	}
	if err := a.PutVsock(ctx, vsockDevice(c.places())); err != nil {
		return err
	}
	if err := a.PutEntropy(ctx, api.Entropy{}); err != nil {
		return err
	}
	return a.PutBalloon(ctx, balloon())
}

// rootDrive: its cache is unsafe: a guest's fsync costs nothing and does not reach the host's disk. What a sandbox wrote survives
// the end of its VMM and of the agent; it is made durable when a snapshot is taken.
func rootDrive(p places) api.Drive {
	return api.Drive{DriveID: "rootfs", PathOnHost: p.rootfs, IsRootDevice: true, CacheType: api.CacheUnsafe}
}

func vsockDevice(p places) api.Vsock { return api.Vsock{GuestCID: guestCID, UDSPath: p.vsock} }

// balloon is empty; it has to be there from the start for memory to be taken back later.
func balloon() api.Balloon { return api.Balloon{AmountMiB: 0, DeflateOnOOM: true} }

func (c *configured) putNIC(ctx context.Context, a *api.Client) error {
	n := c.spec.NIC
	if n == nil {
		return nil
	}
	return a.PutNetworkInterface(ctx, api.NetworkInterface{IfaceID: nicID, HostDevName: n.TAP, GuestMAC: n.MAC.String()})
}

// socketLimit bounds the time from the start of the process to its listening, which takes milliseconds. It is long enough for a
// loaded host that emulates its processor.
const socketLimit = 60 * time.Second

var errExited = errors.New("its process ended")

// awaitSocket waits until Firecracker listens on its API's socket.
func (v *VM) awaitSocket(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, socketLimit)
	defer cancel()
	for b := newBackoff(); ; {
		conn, err := v.process.Dial(ctx, v.files.root, apiSocket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-v.done:
			return errExited
		case <-ctx.Done():
			return fmt.Errorf("wait for firecracker's API socket: %w (last attempt: %w)", ctx.Err(), err)
		case <-b.after():
		}
	}
}
