package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/vm/kvm"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
)

// limitedSubject is for the tests of what a VM may take of its host, which need one with cgroup v2 and KVM: scripts/test-firecracker.sh
// brings one that is emulated, where QEMU's own emulation is too slow.
func limitedSubject(t *testing.T) vmtest.Subject {
	t.Helper()
	if os.Getenv("WRENN_REQUIRE_FIRECRACKER") != "1" {
		t.Skip("skipped: scripts/test-firecracker.sh runs this on a host with cgroup v2")
	}
	kernel, err := filepath.Abs(os.Getenv("WRENN_GUEST_KERNEL"))
	if err != nil {
		t.Fatal(err)
	}
	driver := newDriverWith(t, Options{KVM: &kvm.Verdict{Usable: true}})
	return vmtest.Subject{Driver: driver, Kernel: kernel, NIC: true, Jailed: true, Limit: 5 * limit}
}

func TestLimitsQEMU(t *testing.T) { vmtest.Limits(t, limitedSubject(t)) }

func TestOOMQEMU(t *testing.T) { vmtest.OOM(t, limitedSubject(t)) }

func TestDiskLimitQEMU(t *testing.T) { vmtest.DiskLimit(t, limitedSubject(t)) }

// TestSuiteQEMU runs the suite with KVM, where TestSuite emulates if it has to.
func TestSuiteQEMU(t *testing.T) {
	subject := limitedSubject(t)
	vmtest.Run(t, func(*testing.T) vmtest.Subject { return subject })
}
