package qemu

import (
	"fmt"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// describeExit is called once QEMU has ended and all it wrote has been read.
func (m *machine) describeExit() vm.Exit {
	status := m.process.Status()
	exit := vm.Exit{At: status.At, Code: status.Code, Signal: status.Signal, Known: status.Known, Asked: m.asked.Load()}
	exit = vmm.Killed(exit, "QEMU", m.saved.Cgroup)
	panicked := vm.GuestPanic(m.out.consoleTail.Bytes())
	switch {
	case exit.Reason != "":
		exit.Reason = m.withWords(exit.Reason)
	case panicked != "" && exit.Signal == 0:
		exit.Reason = panicked
	case exit.Code != 0:
		exit.Reason = m.withWords(fmt.Sprintf("QEMU ended with status %d", exit.Code))
	case !exit.Asked:
		exit.Reason = m.withWords(m.shutdownReason())
	}
	return exit
}

// shutdownReason puts QEMU's reasons, from enum ShutdownCause of its qapi/run-state.json, into words.
func (m *machine) shutdownReason() string {
	switch reason, _ := m.shutdown.Load().(string); reason {
	case "guest-reset":
		return "the guest restarted"
	case "guest-shutdown":
		return "the guest switched itself off"
	case "guest-panic":
		return "the guest panicked"
	case "":
		return "QEMU ended"
	default:
		return "QEMU ended: " + vm.Printable(reason)
	}
}

func (m *machine) withWords(reason string) string {
	if words := m.out.lastWords(); words != "" {
		return reason + ": " + words
	}
	return reason
}
