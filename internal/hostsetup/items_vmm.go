package hostsetup

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker"
	"github.com/wrenn-sandbox/wrenn/internal/vm/seccomp"
)

// checkFilter asks the kernel what the filter of this host's Firecracker refuses, with the compiled filter of a file or, for "", its own.
func checkFilter(ctx context.Context, file string) error {
	driver, err := firecracker.New(ctx, firecracker.Options{Unjailed: true, SeccompFilter: file})
	if err != nil {
		return err
	}
	return driver.CheckFilter(ctx)
}

// seccompAdvice tells whose filter confines VMMs, if any does.
func seccompAdvice(m *machine) (found, fix string) {
	const compile = "compile resources/seccomp of Firecracker's source with the seccompiler-bin of the same release, for every user to read, " +
		"and name the file in seccomp_filter (WRENN_SECCOMP_FILTER)"
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	err := m.filter(ctx, m.SeccompFilter)
	switch {
	case err == nil && m.SeccompFilter == "":
		return "Firecracker's own", ""
	case err == nil:
		return "that of " + m.SeccompFilter + ", which is in force", ""
	case errors.Is(err, exec.ErrNotFound):
		return "there is no Firecracker; QEMU brings its own (-sandbox on)", ""
	case errors.Is(err, firecracker.ErrUnfiltered) && m.SeccompFilter == "":
		return "none: Firecracker was built without", "take a released binary, or " + compile
	case errors.Is(err, firecracker.ErrUnfiltered):
		return "none: that of " + m.SeccompFilter + " allows every system call", compile
	case errors.Is(err, seccomp.ErrUnknown):
		return "not known: " + err.Error(), "look as root, with a kernel that has CONFIG_CHECKPOINT_RESTORE"
	case m.SeccompFilter != "":
		return m.SeccompFilter + " cannot be used: " + err.Error(), compile
	}
	return "not known: " + err.Error(), "have `firecracker --version` work first"
}

// ipv6Advice tells whether a network policy that allows IPv6 leads anywhere. Nothing is wrong with a host where it does not.
func ipv6Advice(m *machine) (found, fix string) {
	const knobs = "/proc/sys/net/ipv6/conf"
	switch {
	case !m.exists(knobs):
		return "the kernel has none: policies that allow it are in force without", ""
	case m.text(filepath.Join(knobs, "default/disable_ipv6")) == "1":
		return "switched off (net.ipv6.conf.default.disable_ipv6): policies that allow it are in force without", ""
	}
	for row := range strings.Lines(m.text("/proc/net/ipv6_route")) { // destination, length, source, length, next hop, metric, …, flags, device
		fields := strings.Fields(row)
		if len(fields) == 10 && fields[1] == "00" && fields[9] != "lo" {
			return "a default route by " + fields[9] + ": the agent forwards, and goes on to accept router advertisements, once a policy allows IPv6", ""
		}
	}
	return "no default route: sandboxes whose policy allows IPv6 reach no more by it than the host", ""
}
