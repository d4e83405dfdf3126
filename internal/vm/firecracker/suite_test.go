package firecracker_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker"
	"github.com/wrenn-sandbox/wrenn/internal/vm/kvm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
)

// TestSuiteStrictServer runs the suite with the strict server and its jailer in the places of Firecracker and its own, and a simulated guest.
func TestSuiteStrictServer(t *testing.T) {
	binary, kernel := fake(t)
	vmtest.Run(t, func(t *testing.T) vmtest.Subject {
		return vmtest.Subject{Driver: newDriver(t, binary), Kernel: kernel, Jailed: os.Geteuid() == 0, Simulated: true}
	})
}

// TestSuiteUnjailed is the same without jails, as an operator may want it.
func TestSuiteUnjailed(t *testing.T) {
	binary, kernel := fake(t)
	vmtest.Run(t, func(t *testing.T) vmtest.Subject {
		return vmtest.Subject{Driver: newUnjailed(t, binary), Kernel: kernel, Simulated: true}
	})
}

// TestSuiteFirecracker runs the suite with a real Firecracker and real guests.
func TestSuiteFirecracker(t *testing.T) {
	binary := realFirecracker(t)
	needKVM(t)
	kernel := realKernel(t)
	unfiltered := newReal(t, binary).CheckFilter(t.Context())
	if unfiltered != nil && !errors.Is(unfiltered, firecracker.ErrUnfiltered) {
		t.Fatal(unfiltered)
	}
	vmtest.Run(t, func(t *testing.T) vmtest.Subject {
		s := vmtest.Subject{Driver: newReal(t, binary), Kernel: kernel, NIC: true, Jailed: true, Unfiltered: unfiltered != nil}
		if os.Getenv(slowEnv) == "1" {
			const why = "an emulated host passes some 5 KiB a second through the serial console; TestConsoleFirecracker floods it less"
			s.Limit, s.Skip = callLimit, map[string]string{"console_flood": why, "console_flood_unattended": why}
		}
		return s
	})
}

// slowEnv says that the host is emulated. scripts/test-firecracker.sh sets it.
const slowEnv = "WRENN_SLOW_HOST"

// newDriver takes the jailer that lies beside binary.
func newDriver(t *testing.T, binary string) *firecracker.Driver {
	t.Helper()
	return newDriverWith(t, firecracker.Options{Binary: binary})
}

func newDriverWith(t *testing.T, o firecracker.Options) *firecracker.Driver {
	t.Helper()
	o.Jailer, o.Unjailed = filepath.Join(filepath.Dir(o.Binary), "jailer"), os.Geteuid() != 0
	o.Pager = pagerCommand(t)
	d, err := firecracker.New(t.Context(), o)
	must(t, err)
	return d
}

// newReal returns a driver of a real Firecracker, with the filter that was given for it.
func newReal(t *testing.T, binary string) *firecracker.Driver {
	t.Helper()
	return newDriverWith(t, firecracker.Options{Binary: binary, SeccompFilter: os.Getenv(filterEnv)})
}

func newUnjailed(t *testing.T, binary string) vm.Driver {
	t.Helper()
	d, err := firecracker.New(t.Context(), firecracker.Options{Binary: binary, Unjailed: true, Pager: pagerCommand(t)})
	must(t, err)
	return d
}

func pagerCommand(t *testing.T) []string {
	t.Helper()
	command, err := vmtest.Pager()
	must(t, err)
	return command
}

// requireEnv makes the tests against a real Firecracker fail where they would be skipped. scripts/test-firecracker.sh sets it.
const requireEnv = "WRENN_REQUIRE_FIRECRACKER"

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv(requireEnv) == "1" {
		t.Fatal(what)
	}
	t.Skip("skipped: " + what)
}

func realFirecracker(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("firecracker")
	if err != nil {
		missing(t, "there is no firecracker on the PATH")
	}
	out, err := exec.Command(path, "--version").Output()
	must(t, err)
	line, _, _ := strings.Cut(string(out), "\n")
	t.Logf("%s: %s", path, line)
	return path
}

// needKVM trusts scripts/test-firecracker.sh, which judged KVM or brought a host: that one is emulated, and
// too slow for the probe.
func needKVM(t *testing.T) {
	t.Helper()
	if os.Getenv(requireEnv) == "1" {
		return
	}
	if v := kvm.Probe(t.Context(), kvm.Device); !v.Usable {
		t.Skip("skipped: " + v.Reason + " (make test-firecracker brings a host of its own)")
	}
}

// kernelEnv names a guest kernel other than the one that `make images` built.
const kernelEnv = "WRENN_GUEST_KERNEL"

func realKernel(t *testing.T) string {
	t.Helper()
	path := os.Getenv(kernelEnv)
	if path == "" {
		path = "../../../build/guest/vmlinux"
	}
	abs, err := filepath.Abs(path)
	must(t, err)
	if _, err := os.Stat(abs); err != nil {
		missing(t, "there is no guest kernel at "+abs+" (make images)")
	}
	return abs
}

// TestKVMProbe fails where KVM is not usable and usableEnv is set, by which scripts/test-firecracker.sh asks.
func TestKVMProbe(t *testing.T) {
	v := kvm.Probe(t.Context(), kvm.Device)
	t.Log(v.Reason)
	if !v.Usable && os.Getenv(usableEnv) == "1" {
		t.Fail()
	}
}

const usableEnv = "WRENN_ASK_KVM"
