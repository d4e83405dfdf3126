package firecracker_test

import (
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

func TestDiskLimitFirecracker(t *testing.T) { vmtest.DiskLimit(t, limitedSubject(t)) }
