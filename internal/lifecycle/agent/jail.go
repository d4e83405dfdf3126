package agent

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/cgroup"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// Jails is how the VMMs of a host are confined. Each is the user that its network slot says, Slot.Owner.
type Jails struct {
	Cgroups  *cgroup.Tree // where each has its group; nil where the host has no cgroup v2: then nothing is limited
	DiskMiBs int          // that a sandbox may read, and write, a second; 0 for as many as it can
}

// vmmCPUs is the processor time that a sandbox may take beside that of its own processors: for what its VMM does for it.
const vmmCPUs = 0.5

// pageTables is the part of a guest's memory that its VMM and its host may take to keep account of it.
const pageTables = 16

// ownerOf is the user of a sandbox's VMM: that of its record or, where that could not be read, that of its disk.
func (a *Agent) ownerOf(s *sandbox) uint32 {
	if owner := s.update(func(*record) {}).Owner; owner != 0 {
		return owner
	}
	var stat unix.Stat_t
	if unix.Lstat(a.diskPath(s.id), &stat) != nil {
		return 0 // a VMM has a disk
	}
	return stat.Uid
}

// jail makes the sandbox's cgroup, and says how its VMM is to be confined.
func (a *Agent) jail(s *sandbox) (*vm.Jail, error) {
	if a.cfg.Jails == nil {
		return nil, nil
	}
	rec := s.update(func(*record) {})
	jail := &vm.Jail{Owner: rec.Owner}
	if a.cfg.Jails.Cgroups == nil {
		return jail, nil
	}
	driver := a.cfg.Driver.Info()
	group, err := a.cfg.Jails.Cgroups.Make(string(s.id), cgroup.Limits{
		CPUs:      float64(rec.Size.VCPUs) + vmmCPUs,
		MemoryMiB: int64(rec.Size.MemoryMiB + driver.OverheadMiB + rec.Size.MemoryMiB/pageTables),
		PIDs:      rec.Size.VCPUs + driver.Processes,
		DiskMiBs:  a.cfg.Jails.DiskMiBs, Disk: a.dir(s.id),
	})
	if err != nil {
		return nil, fmt.Errorf("limit the VM: %w", err)
	}
	jail.Cgroup = group.Dir
	return jail, nil
}

// machineOf is what snapshots of the VMs of this agent are bound to, at a size. With some drivers a jail is part of it.
func (a *Agent) machineOf(size models.Size) vm.Machine {
	spec := vm.Spec{VCPUs: size.VCPUs, MemoryMiB: size.MemoryMiB, NIC: &vm.NIC{}}
	if a.cfg.Jails != nil {
		spec.Jail = &vm.Jail{}
	}
	return a.cfg.Driver.Machine(spec)
}

// group returns the sandbox's cgroup, which need not exist; false where it can have none.
func (a *Agent) group(rec record) (cgroup.Group, bool) {
	switch {
	case rec.VM != nil && rec.VM.Cgroup != "":
		return cgroup.Group{Dir: rec.VM.Cgroup}, true // also after the operator has named another one, or none
	case a.cfg.Jails != nil && a.cfg.Jails.Cgroups != nil:
		return a.cfg.Jails.Cgroups.Group(string(rec.Sandbox)), true
	}
	return cgroup.Group{}, false
}

// removeGroup kills what may still be in the sandbox's cgroup, and removes it.
func (a *Agent) removeGroup(ctx context.Context, s *sandbox) error {
	if group, ok := a.group(s.update(func(*record) {})); ok {
		return group.Remove(ctx)
	}
	return nil
}

// whyGone says why the VM of a sandbox ended that nobody watched, as far as its cgroup knows.
func (a *Agent) whyGone(rec record) string {
	const gone = "its VM ended while the host agent was down"
	if group, ok := a.group(rec); ok && group.OOMKilled() {
		return gone + ": " + vmm.OOMReason(group, rec.VM.Driver)
	}
	return gone
}
