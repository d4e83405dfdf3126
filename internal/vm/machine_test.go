package vm

import (
	"errors"
	"testing"
)

func TestMachineCheckRestore(t *testing.T) {
	here := Machine{Driver: "qemu", Version: "7.2", Accelerator: "tcg", CPU: "max", TSCKHz: 2_596_134, VCPUs: 2, MemoryMiB: 256, Hardware: "h"}
	near := here
	near.TSCKHz += 600 // 231 ppm
	if err := near.CheckRestore(here); err != nil {
		t.Errorf("of a frequency that is near enough: %v", err)
	}
	for what, change := range map[string]func(*Machine){
		"driver": func(m *Machine) { m.Driver = "x" }, "version": func(m *Machine) { m.Version = "x" }, "accelerator": func(m *Machine) { m.Accelerator = "kvm" },
		"cpu": func(m *Machine) { m.CPU = "x" }, "tsc_khz": func(m *Machine) { m.TSCKHz += 700 }, "vcpus": func(m *Machine) { m.VCPUs = 1 },
		"memory_mib": func(m *Machine) { m.MemoryMiB = 512 }, "hardware": func(m *Machine) { m.Hardware = "x" },
	} {
		other := here
		change(&other)
		var mismatch *Mismatch
		if err := other.CheckRestore(here); !errors.As(err, &mismatch) || mismatch.What != what || mismatch.Requested != (what == "vcpus" || what == "memory_mib") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestDescribeCPU(t *testing.T) {
	const one = "processor\t: 0\nvendor_id\t: V\nmodel name\t: A CPU\nflags\t\t: b a\ncpu MHz\t\t: 1.0\n\nprocessor\t: 1\n"
	want := describeCPU(one)
	for name, c := range map[string]struct {
		text string
		same bool
	}{
		"other order":     {"vendor_id\t: V\nmodel name\t: A CPU\nflags\t\t: a b\ncpu MHz\t\t: 2.0\n", true},
		"another feature": {"vendor_id\t: V\nmodel name\t: A CPU\nflags\t\t: a b c\n", false},
		"another model":   {"vendor_id\t: V\nmodel name\t: B CPU\nflags\t\t: a b\n", false},
	} {
		if got := describeCPU(c.text); (got == want) != c.same {
			t.Errorf("%s: %q, against %q", name, got, want)
		}
	}
	if got := describeCPU(""); got != "unknown" {
		t.Errorf("of nothing: %q", got)
	}
}
