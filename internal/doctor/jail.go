package doctor

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/wrenn-sandbox/wrenn/internal/vm/jail"
)

// checkJail looks at what keeps a VMM that was taken over from the host.
func checkJail(ctx context.Context, m *machine) Finding {
	const name = "jail"
	if m.Jail == "off" {
		return warn(name, "switched off: VMMs run as root and see the whole host", "remove jail: off from the host agent's settings (WRENN_JAIL)")
	}
	count := uint32(1) << 14 // of a /16
	if subnet, err := netip.ParsePrefix(m.Subnet); err == nil {
		count = 1 << (30 - min(30, subnet.Bits()))
	}
	if err := jail.CheckFree(m.path("etc"), m.OwnerBase, count); err != nil {
		return fail(name, fmt.Sprintf("the users that VMMs are to run as, %d to %d, are not free: %v", m.OwnerBase, m.OwnerBase+count-1, err),
			fmt.Sprintf("set owner_base (WRENN_OWNER_BASE) to the first of %d ids that nobody has", count))
	}
	found := fmt.Sprintf("VMMs run as users %d to %d", m.OwnerBase, m.OwnerBase+count-1)
	if _, err := m.lookPath("firecracker"); err != nil {
		return ok(name, found)
	}
	return checkJailer(ctx, m, found)
}

// checkJailer: where Firecracker is, its jailer must be, of the same release.
func checkJailer(ctx context.Context, m *machine, found string) Finding {
	const name, fix = "jail", "put the jailer of the same release beside firecracker; without it QEMU is used"
	program, err := m.lookPath("jailer")
	if err != nil {
		return warn(name, found+"; Firecracker's jailer is not installed", fix)
	}
	text, err := m.output(ctx, program, "--version")
	if err != nil {
		return warn(name, fmt.Sprintf("%s; %s does not run: %v", found, program, err), fix)
	}
	return ok(name, found+"; "+firstLine(text))
}
