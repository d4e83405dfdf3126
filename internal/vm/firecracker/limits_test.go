package firecracker_test

import (
	"os"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
)

// limitedSubject is for the tests of what a VM may take of its host, which need one with cgroup v2, as the emulated host is.
func limitedSubject(t *testing.T) vmtest.Subject {
	t.Helper()
	binary := realFirecracker(t)
	needKVM(t)
	return vmtest.Subject{Driver: newReal(t, binary), Kernel: realKernel(t), Jailed: true, Limit: callLimit}
}

func TestLimitsFirecracker(t *testing.T) { vmtest.Limits(t, limitedSubject(t)) }

func TestOOMFirecracker(t *testing.T) { vmtest.OOM(t, limitedSubject(t)) }

func TestDiskLimitFirecracker(t *testing.T) {
	subject := limitedSubject(t)
	if dir := os.Getenv("WRENN_TEST_DISK"); dir != "" {
		t.Setenv("TMPDIR", dir) // folders in memory have no disk
	} else {
		missing(t, "WRENN_TEST_DISK names no folder on a disk")
	}
	vmtest.DiskLimit(t, subject)
}
