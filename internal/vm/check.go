package vm

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

// Limits of a Spec. A unix socket's path may have 107 bytes (unix(7), sun_path less its final NUL); the kernel's
// command line 2047 (COMMAND_LINE_SIZE of x86), of which the drivers' own arguments take up to 1023.
const (
	maxDir         = 80
	maxArgs        = 1024
	maxVCPUs       = 32
	minMemoryMiB   = 64
	maxTAPNameSize = 15 // IFNAMSIZ less its final NUL
)

var tapName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// Check is what every driver's Configure does first: it returns an error that names the first
// thing wrong with s, be it a value or a file. It changes nothing.
func (s Spec) Check() error {
	for _, check := range []func(Spec) error{checkNames, checkSize, checkArgs, checkFiles, checkNIC, checkOwner, checkReadable} {
		if err := check(s); err != nil {
			return fmt.Errorf("vm %s: %w", s.ID, err)
		}
	}
	return nil
}

// CheckRestore is what every driver's Prepare does first: Check, without what a restored VM does not need, and of the files of from. It
// returns a *Mismatch when from was not made where here holds.
func (s Spec) CheckRestore(from Image, here Machine) error {
	for _, check := range []func(Spec) error{checkNames, checkSize, checkDir, checkDisk, checkNIC, checkOwner} {
		if err := check(s); err != nil {
			return fmt.Errorf("vm %s: %w", s.ID, err)
		}
	}
	if err := from.Machine.CheckRestore(here); err != nil {
		return fmt.Errorf("vm %s: %w", s.ID, err)
	}
	if err := checkImage(from); err != nil {
		return fmt.Errorf("vm %s: %w", s.ID, err)
	}
	return nil
}

// checkImage: a memory file of another size would be taken by a VMM, and give a guest without its memory.
func checkImage(from Image) error {
	state, err := os.Stat(from.State)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	memory, err := os.Stat(from.Memory)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	switch {
	case !state.Mode().IsRegular() || state.Size() == 0:
		return fmt.Errorf("snapshot: the state %s is damaged: it is empty, or no file", from.State)
	case !memory.Mode().IsRegular() || memory.Size() != int64(from.Machine.MemoryMiB)<<20:
		return fmt.Errorf("snapshot: the memory %s is damaged: it has %d bytes, not %d MiB", from.Memory, memory.Size(), from.Machine.MemoryMiB)
	}
	return nil
}

func checkNames(s Spec) error {
	switch {
	case s.ID == "" || strings.ContainsFunc(s.ID, isBlank):
		return fmt.Errorf("id %q is empty or has blanks", s.ID)
	case !filepath.IsAbs(s.Dir) || filepath.Clean(s.Dir) != s.Dir:
		return fmt.Errorf("folder %q is not a clean absolute path", s.Dir)
	case len(s.Dir) > maxDir:
		return fmt.Errorf("folder %q is longer than %d bytes", s.Dir, maxDir)
	}
	return nil
}

func checkSize(s Spec) error {
	switch {
	case s.VCPUs < 1 || s.VCPUs > maxVCPUs:
		return fmt.Errorf("%d vcpus are not between 1 and %d", s.VCPUs, maxVCPUs)
	case s.MemoryMiB < minMemoryMiB:
		return fmt.Errorf("%d MiB of memory are less than %d", s.MemoryMiB, minMemoryMiB)
	}
	return nil
}

func checkArgs(s Spec) error {
	size := 0
	for _, arg := range s.Args {
		if arg == "" || strings.ContainsFunc(arg, isBlank) || strings.Contains(arg, `"`) {
			return fmt.Errorf("kernel argument %q is empty or has blanks or quotes", arg)
		}
		size += len(arg) + 1
	}
	if size > maxArgs {
		return fmt.Errorf("kernel arguments are longer than %d bytes", maxArgs)
	}
	return nil
}

func checkFiles(s Spec) error {
	if err := checkDir(s); err != nil {
		return err
	}
	if err := checkKernel(s.Kernel); err != nil {
		return err
	}
	return checkDisk(s)
}

func checkDir(s Spec) error {
	dir, err := os.Stat(s.Dir)
	if err != nil {
		return fmt.Errorf("folder: %w", err)
	}
	if !dir.IsDir() {
		return fmt.Errorf("folder %s is not a folder", s.Dir)
	}
	return nil
}

// checkKernel looks at the headers only. A VMM given something else does not refuse it but
// boots garbage, which then hangs or runs wild.
func checkKernel(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		var file *fs.PathError
		if errors.As(err, &file) {
			return fmt.Errorf("kernel: %w", err)
		}
		return fmt.Errorf("kernel %s is no uncompressed ELF file: %w", path, err)
	}
	defer f.Close()
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		return fmt.Errorf("kernel %s is no x86-64 vmlinux, but %s %s %s", path, f.Class, f.Machine, f.Type)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	return checkSegments(path, f, uint64(info.Size()))
}

func checkSegments(path string, f *elf.File, size uint64) error {
	loaded := false
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		loaded = true
		if p.Off > size || p.Filesz > size-p.Off {
			return fmt.Errorf("kernel %s is cut off: a segment ends after its %d bytes", path, size)
		}
	}
	if !loaded {
		return fmt.Errorf("kernel %s has nothing to load", path)
	}
	return nil
}

func checkDisk(s Spec) error {
	path := s.Rootfs
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("rootfs: %w", err)
	case !info.Mode().IsRegular() && info.Mode()&os.ModeDevice == 0:
		return fmt.Errorf("rootfs %s is neither a file nor a device", path)
	case info.Mode().IsRegular() && (info.Size() == 0 || info.Size()%512 != 0):
		return fmt.Errorf("rootfs %s has %d bytes, which is no whole number of 512-byte sectors", path, info.Size())
	}
	return nil
}

func checkNIC(s Spec) error {
	if s.NIC == nil {
		return nil
	}
	if len(s.NIC.TAP) > maxTAPNameSize || !tapName.MatchString(s.NIC.TAP) {
		return fmt.Errorf("tap name %q is not valid", s.NIC.TAP)
	}
	if mac := s.NIC.MAC; len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("%q is no unicast Ethernet address", mac)
	}
	if _, err := net.InterfaceByName(s.NIC.TAP); err != nil { // a VMM that runs as root would make it
		return fmt.Errorf("tap %s: %w", s.NIC.TAP, err)
	}
	return nil
}

func checkOwner(s Spec) error {
	if s.Jail != nil && s.Jail.Owner == 0 {
		return errors.New("its jail belongs to root")
	}
	return nil
}

// checkReadable: who is confined must be able to read the kernel, which stays its owner's.
func checkReadable(s Spec) error {
	if s.Jail == nil {
		return nil
	}
	kernel, err := os.Stat(s.Kernel)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	if kernel.Mode().Perm()&0o004 == 0 {
		return fmt.Errorf("kernel %s cannot be read by a VMM of its own user: chmod o+r", s.Kernel)
	}
	return nil
}

func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
