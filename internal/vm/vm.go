// Package vm is the contract between the host agent and a virtual machine monitor (VMM).
//
// A VM moves through three phases, each a type of its own, so that a call that makes
// no sense in a phase does not compile:
//
//	Driver.Configure -> Configured -- Start ----> Running -- Stop, Kill --> Exit
//	Driver.Prepare ---> Prepared ---- Restore -----^ ^
//	                                    Driver.Adopt |
//
// Guarantees every driver gives, held by the suite in vmtest:
//
//   - A VMM runs detached, in a session of its own: the end of the agent ends no VM.
//   - Running.Saved is all that Adopt needs after a restart of the agent. Adopt checks pid
//     and start time, so that a recycled pid is never taken for a VM.
//   - After a failed Start, and after Stop or Kill returned without error, no process is left.
//   - Whatever a driver makes lies in Spec.Dir. It removes nothing there: the folder is its caller's.
//   - A VMM with a Spec.Jail has no capability and no way to get one, sees no file but its own, and is found by its disk
//     when no record names it (vmm.KillStale).
//   - The guest's serial console is kept, bounded, in Spec.Dir (ReadConsole), also while no agent runs it
//     may lose output, but never blocks the guest for good or fills the disk.
//   - A VM's memory is its own: no VM, whatever its guest does, changes the files of the snapshot it came from.
//     Any number of VMs run from one snapshot. Those that need not open its file for writing share the pages that none of them has changed.
//   - A Snapshot that fails leaves the VM as it was, and no file. A Restore that fails leaves no process.
package vm

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"time"
)

// ErrGone is returned by Adopt when the VMM is not running any more, and by what was under way when it was killed.
var ErrGone = errors.New("the VMM is gone")

// ErrReleased is returned by the methods of a Running after its Release.
var ErrReleased = errors.New("the VM was released")

// Driver makes and adopts VMs of one kind of VMM.
type Driver interface {
	// Info says what runs the VMs. It is answered from what New found out.
	Info() Info
	// Configure checks spec and prepares spec.Dir. Nothing runs yet.
	Configure(ctx context.Context, spec Spec) (Configured, error)
	// Prepare spawns a VMM that waits to become the VM that was frozen in from. spec is as for Configure, but for Kernel and
	// Args, which are part of the snapshot and may be left out; its Rootfs is a clone of the snapshot's disk, with the same
	// content, and there is a NIC in it if there was one. It fails with a *Mismatch when the snapshot was
	// not made by a VM of spec's size under this driver.
	Prepare(ctx context.Context, spec Spec, from Image) (Prepared, error)
	// Machine is what snapshots of VMs of spec's size are bound to.
	Machine(spec Spec) Machine
	// Adopt takes over a VM that an earlier agent started, or returns ErrGone, with a *MemoryLost where that is why. One that is paused stays so.
	Adopt(ctx context.Context, saved Saved) (Running, error)
}

// Info describes a driver on this host.
type Info struct {
	Driver      string // "qemu" or "firecracker"
	Version     string // as the VMM itself prints it
	Accelerator string // "kvm" or "tcg"
	// OverheadMiB is what a VMM takes of its host's memory, at most, beside what its guest has. A cgroup that limits a VM allows for it.
	OverheadMiB int
	// Processes is how many processes and threads a VMM has at most, beside one for each virtual processor.
	Processes int
	// NoRestore says why VMs with a NIC cannot be restored here; "" where they can. Whatever is frozen here would stay so.
	NoRestore string
	// Lazy says that an Image whose memory comes later can be restored. Where it cannot, the memory has to be there first.
	Lazy bool
	// SlowStart says that a VMM takes so long to start that it is worth starting one ahead. One that was prepared does not look for its TAP by name any more.
	SlowStart bool
	// Copies says that a VM gets a copy of the memory that it is restored from, and shares none of it, unless the Image has a Shared.
	Copies bool
}

// Spec is all that a driver needs to boot a VM.
type Spec struct {
	ID        string // unique on the host
	Dir       string // exists, belongs to this VM alone; short enough for unix sockets in it (<= 80 bytes)
	Kernel    string // uncompressed ELF
	Rootfs    string // raw disk, the guest's /dev/vda, writable, not shared
	VCPUs     int
	MemoryMiB int
	NIC       *NIC     // nil for none
	Args      []string // kernel arguments in addition to the driver's own
	Jail      *Jail    // nil for none: the VMM then runs as this program's user and sees all that it sees
}

// Jail says whose a VMM is. With one, the VMM runs as a user of its own without any privilege, in namespaces of its own, and sees nothing of
// the host but its program, its kernel and the memory that it shares, which it can only read, its disk and, in a proc(5) where it has one, itself.
type Jail struct {
	Owner  uint32 // uid and gid, of no other process or file; not 0. Start gives it the disk and the TAP
	Cgroup string // folder of the cgroup v2 that the VMM is started in; "" for this program's
}

// NIC is the guest's eth0.
type NIC struct {
	TAP string // existing, persistent TAP device in the agent's network namespace
	MAC net.HardwareAddr
}

// Files are those of a frozen VM, its disk apart.
type Files struct {
	State  string // processors and devices, in the driver's own format
	Memory string // raw and sparse; nobody may write to it while a VM lives that was restored from it
}

// Image is a frozen VM.
type Image struct {
	Files
	Machine Machine // of the VM that was frozen, as its Saved says
	Lazy    *Lazy   // nil where the memory is there
	// Shared has the content of Files.Memory in memory, sealed (package memfd), for drivers that could else share no page of it; nil for none. Files.Memory stays where it
	// is, and as it is, for as long as the VM lives: a snapshot of the VM begins as a clone of it.
	Shared *os.File
}

// Lazy is about memory that comes while the VM runs: Files.Memory is a file of the right size with nothing in it, into which it is brought and which belongs
// to this one VM. That is the work of a process of its own, which is told what to do when the VM is prepared; the end of the agent changes nothing
// in it. Memory that cannot be brought ends the VM, with the reason in its Exit.
type Lazy struct {
	Source json.RawMessage // where it comes from, in the words of the program that the driver was given for it; may hold secrets
	First  []int64         // the working set: what of it is to come first
	Record string          // the file for the working set of this time; "" for none
}

// Prepared is a VMM that waits for its snapshot. It costs a process, holds the TAP and the disk, and has none of the
// guest's memory yet.
type Prepared interface {
	// Restore loads the snapshot and returns the VM, paused in the instant in which it was frozen. It is called once. A
	// state that the VMM refuses gives an error with the VMM's own words.
	Restore(ctx context.Context) (Running, error)
	// Discard ends the VMM instead. After Restore it does nothing.
	Discard() error
}

// Configured is a VM of which nothing runs yet.
type Configured interface {
	// Start spawns the VMM and returns as soon as the guest executes; it does not
	// wait for the guest's envd. A VMM that refuses to start gives an error with the
	// VMM's own words.
	Start(ctx context.Context) (Running, error)
}

// Running is a VM whose VMM runs. All methods may be called at the same time.
type Running interface {
	// Saved is what Adopt needs. It is JSON-encodable and constant.
	Saved() Saved
	// Dial connects to a port of envd's in the guest. It waits for a booting guest to listen, until
	// ctx ends or the VMM exits; then the error says why, if it is known. A port that nobody
	// listens on is refused at once where the driver can tell it from a guest that boots.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Pause freezes the guest. Once it has returned nil no processor of the guest's executes, its clocks stand
	// still, and its disk does not change: all that the guest wrote can be read from its file. Connections stay
	// open. Pausing a paused VM succeeds.
	Pause(ctx context.Context) error
	// Resume ends Pause, the pause after Snapshot, and that after Prepared.Restore. Resuming a VM that
	// runs succeeds.
	Resume(ctx context.Context) error
	// Snapshot freezes the guest and writes it to the files of to, which must not exist. When it has returned nil, the VM
	// is paused, and its disk is the third part of the snapshot, for the caller to clone before it calls Resume or Kill. The
	// files are whole, but not synced. Connections from the host may have ended (Firecracker resets its vsock device, also
	// in the VM that goes on); new ones can be made. A VM may be snapshotted any number of times, and before its guest has booted.
	// After an error the VM runs or is paused as before, and the files are gone.
	Snapshot(ctx context.Context, to Files) error
	// Whole returns when all of the VM's memory has come: at once, where it came from an Image without Lazy. An error says that it has not, and
	// why, be it the end of ctx. Snapshot waits for it before it freezes anything.
	Whole(ctx context.Context) error
	// Stop calls ask (which asks the guest to shut down; nil for not at all), waits for the VMM to exit until ctx ends, then
	// kills it. When ask fails it waits for one second only. See StopOrKill.
	Stop(ctx context.Context, ask func(context.Context) error) (Exit, error)
	// Kill ends the VMM at once and waits until it is gone. It succeeds when it was gone already.
	Kill() (Exit, error)
	// Done is closed once the VMM has exited, for whatever reason; Exit then answers.
	Done() <-chan struct{}
	Exit() Exit
	// Release frees what the agent holds of the VM, connections too, and leaves it running. Afterwards
	// Saved alone is of use: Dial, Stop and Kill fail with ErrReleased, and Done is never closed.
	// Of a VM that has ended there is nothing to release.
	Release() error
}

// Exit says how a VMM ended.
type Exit struct {
	At     time.Time
	Code   int    // meaningful only if Known and Signal is 0
	Signal int    // the signal that ended it, 0 for none
	Known  bool   // false for an adopted VMM, whose status went to its reaper
	Asked  bool   // whether Stop or Kill was called first
	Reason string // in words: the VMM's last error or the guest's panic, if one was seen
	OOM    bool   // the kernel killed the VMM for going beyond the memory of its cgroup; Reason says so too
	// MemoryLost says that the VM was ended since memory of its that was to come later could not be brought; Reason says why.
	MemoryLost bool
}

// MemoryLost is among the errors about a VM that was ended since memory of its that was to come later could not be brought: those of Prepared.Restore, Running.Whole and
// Driver.Adopt. What the memory was to come from is as it was.
type MemoryLost struct{ Reason string }

// Error is the reason.
func (m *MemoryLost) Error() string { return m.Reason }

// Saved is the durable part of a Running VM.
type Saved struct {
	Driver    string          `json:"driver"`
	Dir       string          `json:"dir"`
	PID       int             `json:"pid"`
	StartTime uint64          `json:"start_time"` // field 22 of /proc/pid/stat, in clock ticks since boot
	BootID    string          `json:"boot_id"`    // /proc/sys/kernel/random/boot_id at the start
	Cgroup    string          `json:"cgroup,omitempty"`
	Owner     uint32          `json:"owner,omitempty"`  // whom the VMM runs as, in its jail
	Machine   Machine         `json:"machine"`          // what its snapshots are bound to
	Memory    string          `json:"memory,omitempty"` // Files.Memory of the Image that it was restored from, if its Shared was mapped in the file's stead
	Private   json.RawMessage `json:"private,omitempty"`
}
