package vmm

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/cgroup"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// Killed completes the exit of a VMM that its name names: if the kernel ended it, for want of memory in its cgroup or by a signal, Reason says
// so. Of a VMM that was no child of ours, the cgroup alone knows.
func Killed(exit vm.Exit, name, group string) vm.Exit {
	if exit.Asked {
		return exit
	}
	if g := (cgroup.Group{Dir: group}); group != "" && (exit.Signal == int(unix.SIGKILL) || !exit.Known) && g.OOMKilled() {
		exit.OOM, exit.Reason = true, OOMReason(g, name)
		return exit
	}
	switch {
	case exit.Signal == int(unix.SIGSYS):
		exit.Reason = fmt.Sprintf("%s was ended by its seccomp filter, for a system call that it may not make", name)
	case exit.Signal != 0:
		exit.Reason = fmt.Sprintf("%s was ended by signal %d (%s)", name, exit.Signal, syscall.Signal(exit.Signal))
	}
	return exit
}

// OOMReason says that a VMM went beyond the memory of its cgroup. It is the host that had no more for it: in a guest without memory,
// the guest's own kernel ends a program.
func OOMReason(g cgroup.Group, name string) string {
	return fmt.Sprintf("the host's memory limit of the VM, %d MiB for the guest and %s together, was reached, and the host ended %s",
		g.MemoryLimitMiB(), name, name)
}
