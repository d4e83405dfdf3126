package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Machine is what the state of a VM is bound to: a snapshot can be restored only where all of it is the same.
type Machine struct {
	Driver      string `json:"driver"`
	Version     string `json:"version"`     // of the VMM: states are not promised to work with another build
	Accelerator string `json:"accelerator"` // as in Info
	CPU         string `json:"cpu"`         // the processor that the guest sees
	TSCKHz      int64  `json:"tsc_khz"`     // of its time-stamp counter; 0 where the guest's clock is made of something else
	VCPUs       int    `json:"vcpus"`
	MemoryMiB   int    `json:"memory_mib"`
	Hardware    string `json:"hardware"` // digest of the devices and of the VMM's options, without paths and names
}

// tscTolerance is how much two frequencies may differ, in parts of a million: what KVM's tsc_tolerance_ppm is by default.
// Two measurements of the same processor differ by about one.
const tscTolerance = 250

// Mismatch is the error of Prepare for a snapshot that does not fit.
type Mismatch struct {
	What      string // the JSON name of a field of Machine
	Have      string // in the snapshot
	Want      string // here
	Requested bool   // whether it is the caller's spec that does not fit, not this host
}

// Error names the field and both values.
func (m *Mismatch) Error() string {
	return fmt.Sprintf("the snapshot's %s is %q, and here it is %q", m.What, Printable(m.Have), Printable(m.Want))
}

// CheckRestore returns a *Mismatch for the first thing that keeps a snapshot bound to m from being restored where here holds, or nil.
func (m Machine) CheckRestore(here Machine) error {
	for _, c := range []struct {
		what       string
		have, want string
		same       bool
	}{
		{"driver", m.Driver, here.Driver, m.Driver == here.Driver},
		{"version", m.Version, here.Version, m.Version == here.Version},
		{"accelerator", m.Accelerator, here.Accelerator, m.Accelerator == here.Accelerator},
		{"cpu", m.CPU, here.CPU, m.CPU == here.CPU},
		{"tsc_khz", fmt.Sprint(m.TSCKHz), fmt.Sprint(here.TSCKHz), closeTo(m.TSCKHz, here.TSCKHz)},
		{"vcpus", fmt.Sprint(m.VCPUs), fmt.Sprint(here.VCPUs), m.VCPUs == here.VCPUs},
		{"memory_mib", fmt.Sprint(m.MemoryMiB), fmt.Sprint(here.MemoryMiB), m.MemoryMiB == here.MemoryMiB},
		{"hardware", m.Hardware, here.Hardware, m.Hardware == here.Hardware},
	} {
		if !c.same {
			return &Mismatch{What: c.what, Have: c.have, Want: c.want, Requested: c.what == "vcpus" || c.what == "memory_mib"}
		}
	}
	return nil
}

func closeTo(a, b int64) bool {
	return max(a-b, b-a)*1_000_000 <= tscTolerance*max(a, b)
}

// Digest returns a short digest of texts, for Machine.Hardware and Machine.CPU.
func Digest(texts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// HostCPU describes this host's processor as a guest with KVM sees it: its model, and a digest of its features and microcode
// family. It is "unknown" on a host that does not say.
func HostCPU() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	return describeCPU(string(text))
}

// describeCPU reads the first processor of /proc/cpuinfo.
func describeCPU(cpuinfo string) string {
	first, _, _ := strings.Cut(cpuinfo, "\n\n")
	fields := map[string]string{}
	for line := range strings.Lines(first) {
		name, value, _ := strings.Cut(line, ":")
		fields[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	if fields["flags"] == "" {
		return "unknown"
	}
	flags := strings.Fields(fields["flags"])
	slices.Sort(flags)
	return Printable(fields["model name"]) + " " +
		Digest(fields["vendor_id"], fields["cpu family"], fields["model"], fields["stepping"], strings.Join(flags, " "))
}

// Restore is Prepare and Prepared.Restore in one.
func Restore(ctx context.Context, d Driver, spec Spec, from Image) (Running, error) {
	prepared, err := d.Prepare(ctx, spec, from)
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", spec.ID, err)
	}
	return prepared.Restore(ctx)
}

// MakeFiles makes both files, empty, for a VMM that would write over what is there.
func MakeFiles(f Files) error {
	for i, path := range []string{f.State, f.Memory} {
		made, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			err = made.Close()
		}
		if err != nil && i > 0 {
			err = errors.Join(err, os.Remove(f.State))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
