package doctor

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// The names of the findings that checkVMM looks at.
const (
	nameKVM         = "kvm"
	nameFirecracker = "firecracker"
	nameQEMU        = "qemu"
)

// oldestFirecracker has the ACPI that the guest kernel expects.
var oldestFirecracker = [2]int{1, 6}

func checkKVM(ctx context.Context, m *machine) Finding {
	usable, reason := m.probeKVM(ctx)
	if usable {
		return ok(nameKVM, reason)
	}
	return warn(nameKVM, reason, "without KVM sandboxes run emulated by QEMU, several times slower; enable virtualisation in the firmware, or nested "+
		"virtualisation for this virtual machine, and: modprobe kvm_intel or kvm_amd")
}

func checkFirecracker(ctx context.Context, m *machine) Finding {
	program, err := m.lookPath("firecracker")
	if err != nil {
		return warn(nameFirecracker, "not installed; QEMU is used instead",
			"put the binary of a release from github.com/firecracker-microvm/firecracker on the PATH")
	}
	text, err := m.output(ctx, program, "--version")
	if err != nil {
		return warn(nameFirecracker, fmt.Sprintf("%s does not run: %v", program, err), "install the release for this machine's architecture")
	}
	major, minor, found := version(text)
	if !found {
		return warn(nameFirecracker, fmt.Sprintf("%s does not say its version: %q", program, firstLine(text)), "install a release")
	}
	if major < oldestFirecracker[0] || major == oldestFirecracker[0] && minor < oldestFirecracker[1] {
		return warn(nameFirecracker, fmt.Sprintf("%s in %s is too old", firstLine(text), program),
			fmt.Sprintf("install %d.%d or newer", oldestFirecracker[0], oldestFirecracker[1]))
	}
	return ok(nameFirecracker, firstLine(text)+" in "+program)
}

func checkQEMU(ctx context.Context, m *machine) Finding {
	program, err := m.lookPath("qemu-system-x86_64")
	if err != nil {
		return warn(nameQEMU, "not installed; only Firecracker can be used", "apt-get install qemu-system-x86")
	}
	text, err := m.output(ctx, program, "--version")
	if err != nil {
		return warn(nameQEMU, fmt.Sprintf("%s does not run: %v", program, err), "apt-get install --reinstall qemu-system-x86")
	}
	machines, err := m.output(ctx, program, "-machine", "help")
	if err != nil || !strings.Contains(machines, "microvm") {
		return warn(nameQEMU, firstLine(text)+" has no microvm machine", "apt-get install qemu-system-x86")
	}
	return ok(nameQEMU, firstLine(text)+" in "+program)
}

// checkVMM sums up what the findings about the VMMs mean: Firecracker needs KVM, QEMU does not.
func checkVMM(all []Finding) Finding {
	fine := map[string]bool{}
	for _, f := range all {
		fine[f.Name] = f.Status == OK
	}
	switch {
	case fine[nameFirecracker] && fine[nameKVM]:
		return ok("vmm", "sandboxes run on Firecracker")
	case fine[nameQEMU] && fine[nameKVM]:
		return ok("vmm", "sandboxes run on QEMU with KVM")
	case fine[nameQEMU]:
		return warn("vmm", "sandboxes run on QEMU, emulated", "see kvm")
	default:
		return fail("vmm", "there is nothing that can run a sandbox", "apt-get install qemu-system-x86, or Firecracker together with a usable KVM")
	}
}

var versionForm = regexp.MustCompile(`v?(\d+)\.(\d+)`)

func version(text string) (major, minor int, found bool) {
	m := versionForm.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, false
	}
	major, errMajor := strconv.Atoi(m[1])
	minor, errMinor := strconv.Atoi(m[2])
	return major, minor, errMajor == nil && errMinor == nil
}

// output runs a program and returns what it writes to its standard output.
func output(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	b, err := exec.CommandContext(ctx, program, args...).Output()
	return string(b), err
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return trim(line)
}

func trim(s string) string { return strings.TrimSpace(s) }
