package vm

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// elfFile returns a minimal ELF file of a machine and a type, with one segment of the given size after its headers.
func elfFile(machine, kind uint16, segment uint64) []byte {
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		kind, machine, uint32(1), uint64(0x1000000), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1),
		uint16(64), uint16(0), uint16(0), // sections
		uint32(1), uint32(5), uint64(120), uint64(0), uint64(0), segment, segment, uint64(4096), // PT_LOAD
	} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	return b.Bytes()
}

const (
	x86, arm = 62, 183
	exec     = 2
	shared   = 3
)

func validSpec(t *testing.T) Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := Spec{ID: "sb-1", Dir: dir, Kernel: filepath.Join(dir, "kernel"), Rootfs: filepath.Join(dir, "rootfs"), VCPUs: 1, MemoryMiB: 128}
	write(t, s.Kernel, append(elfFile(x86, exec, 16), make([]byte, 16)...))
	write(t, s.Rootfs, make([]byte, 1024))
	return s
}

func write(t *testing.T, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestValidSpec(t *testing.T) {
	s := validSpec(t)
	s.Args = []string{"a=b", "c"}
	s.NIC = &NIC{TAP: "lo", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}} // any device that exists
	s.VCPUs, s.MemoryMiB = 32, 65536
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

func TestInvalidSpec(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for name, c := range map[string]struct {
		spoil func(*Spec)
		want  string
	}{
		"no id":               {func(s *Spec) { s.ID = "" }, "id"},
		"blank in the id":     {func(s *Spec) { s.ID = "a b" }, "id"},
		"relative folder":     {func(s *Spec) { s.Dir = "vm" }, "clean absolute"},
		"unclean folder":      {func(s *Spec) { s.Dir += "/../x" }, "clean absolute"},
		"long folder":         {func(s *Spec) { s.Dir = "/" + strings.Repeat("x", 80) }, "longer than 80"},
		"missing folder":      {func(s *Spec) { s.Dir += "-not" }, "no such file"},
		"file as folder":      {func(s *Spec) { s.Dir = s.Kernel }, "not a folder"},
		"no vcpu":             {func(s *Spec) { s.VCPUs = 0 }, "0 vcpus"},
		"33 vcpus":            {func(s *Spec) { s.VCPUs = 33 }, "33 vcpus"},
		"little memory":       {func(s *Spec) { s.MemoryMiB = 63 }, "63 MiB"},
		"empty argument":      {func(s *Spec) { s.Args = []string{""} }, "argument"},
		"two in one argument": {func(s *Spec) { s.Args = []string{"a init=/x"} }, "argument"},
		"newline":             {func(s *Spec) { s.Args = []string{"a\nb"} }, "argument"},
		"quote":               {func(s *Spec) { s.Args = []string{`a="b`} }, "argument"},
		"long arguments":      {func(s *Spec) { s.Args = []string{strings.Repeat("x", 1024)} }, "longer than 1024"},
		"missing kernel":      {func(s *Spec) { s.Kernel += "-not" }, "no such file"},
		"empty kernel":        {func(s *Spec) { write(t, s.Kernel, nil) }, "ELF"},
		"text as kernel":      {func(s *Spec) { write(t, s.Kernel, make([]byte, 999)) }, "ELF"},
		"kernel for ARM":      {func(s *Spec) { write(t, s.Kernel, elfFile(arm, exec, 0)) }, "EM_AARCH64"},
		"a library":           {func(s *Spec) { write(t, s.Kernel, elfFile(x86, shared, 0)) }, "ET_DYN"},
		"cut-off kernel":      {func(s *Spec) { write(t, s.Kernel, elfFile(x86, exec, 16)) }, "cut off"},
		"huge segment":        {func(s *Spec) { write(t, s.Kernel, elfFile(x86, exec, 1<<63)) }, "kernel"},
		"missing rootfs":      {func(s *Spec) { s.Rootfs += "-not" }, "no such file"},
		"empty rootfs":        {func(s *Spec) { write(t, s.Rootfs, nil) }, "0 bytes"},
		"half a sector":       {func(s *Spec) { write(t, s.Rootfs, make([]byte, 700)) }, "700 bytes"},
		"folder as rootfs":    {func(s *Spec) { s.Rootfs = s.Dir }, "neither"},
		"no tap name":         {func(s *Spec) { s.NIC = &NIC{MAC: mac} }, "tap name"},
		"option in a tap":     {func(s *Spec) { s.NIC = &NIC{TAP: "a,b=c", MAC: mac} }, "tap name"},
		"long tap name":       {func(s *Spec) { s.NIC = &NIC{TAP: "tap-sb-012345678", MAC: mac} }, "tap name"},
		"missing tap":         {func(s *Spec) { s.NIC = &NIC{TAP: "tap-not", MAC: mac} }, "tap tap-not"},
		"no address":          {func(s *Spec) { s.NIC = &NIC{TAP: "lo"} }, "Ethernet"},
		"group address":       {func(s *Spec) { s.NIC = &NIC{TAP: "lo", MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}} }, "Ethernet"},
	} {
		t.Run(name, func(t *testing.T) {
			s := validSpec(t)
			c.spoil(&s)
			if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
}
