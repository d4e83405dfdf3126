package kvm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of the KVM API, from the kernel's Documentation/virt/kvm/api.rst and include/uapi/linux/kvm.h; the sizes of
// those with an argument are those of x86-64.
const (
	kvmGetAPIVersion       = 0xAE00
	kvmCreateVM            = 0xAE01
	kvmGetVCPUMmapSize     = 0xAE04
	kvmCreateVCPU          = 0xAE41
	kvmSetUserMemoryRegion = 0x4020AE46
	kvmRun                 = 0xAE80
	kvmSetRegs             = 0x4090AE82
	kvmGetSregs            = 0x8138AE83
	kvmSetSregs            = 0x4138AE84

	apiVersion = 12 // the only one there is since Linux 2.6.22
	exitHLT    = 5  // KVM_EXIT_HLT
)

// Offsets in struct kvm_run.
const (
	runImmediateExit = 1
	runExitReason    = 8
)

const memorySize = 4096

// program counts ECX down and halts: `loop: dec ecx; jnz loop; hlt` in 32-bit code.
var program = [...]byte{0x49, 0x75, 0xfd, 0xf4}

type memoryRegion struct {
	slot, flags         uint32
	guest, size, memory uint64
}

type registers struct {
	rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp uint64
	r8, r9, r10, r11, r12, r13, r14, r15   uint64
	rip, rflags                            uint64
}

type segment struct {
	base                           uint64
	limit                          uint32
	selector                       uint16
	kind, present, dpl, db, s, l   uint8
	granularity, avl, unusable, _p uint8
}

type systemRegisters struct {
	cs, ds, es, fs, gs, ss, tr, ldt       segment
	gdt, idt                              [16]byte
	cr0, cr2, cr3, cr4, cr8, efer, apicID uint64
	interrupts                            [4]uint64
}

// machine is a VM with one vCPU in flat 32-bit protected mode, ring 0, and one page of memory.
type machine struct {
	files  []int  // /dev/kvm, VM, vCPU: in the order they were opened
	memory []byte // the guest's

	mu  sync.Mutex
	run []byte // struct kvm_run; nil before it is mapped and after close
}

func newMachine(device string) (*machine, error) {
	m := &machine{}
	if err := m.build(device); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *machine) build(device string) error {
	kvm, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: device, Err: err}
	}
	m.files = append(m.files, kvm)
	version, err := ioctl(kvm, kvmGetAPIVersion, 0)
	if err != nil {
		return fmt.Errorf("ask for its version: %w", err)
	}
	if version != apiVersion {
		return fmt.Errorf("version %d of its interface is not known", version)
	}
	vm, err := m.add(ioctl(kvm, kvmCreateVM, 0))
	if err != nil {
		return fmt.Errorf("create a VM: %w", err)
	}
	if err := m.addMemory(vm); err != nil {
		return err
	}
	vcpu, err := m.add(ioctl(vm, kvmCreateVCPU, 0))
	if err != nil {
		return fmt.Errorf("create a vCPU: %w", err)
	}
	return m.addRun(kvm, vcpu)
}

func (m *machine) add(fd int, err error) (int, error) {
	if err == nil {
		m.files = append(m.files, fd)
	}
	return fd, err
}

func (m *machine) addMemory(vm int) error {
	var err error
	m.memory, err = unix.Mmap(-1, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map memory: %w", err)
	}
	copy(m.memory, program[:])
	region := memoryRegion{size: memorySize, memory: uint64(uintptr(unsafe.Pointer(&m.memory[0])))}
	if _, err := ioctl(vm, kvmSetUserMemoryRegion, uintptr(unsafe.Pointer(&region))); err != nil {
		return fmt.Errorf("give memory to the VM: %w", err)
	}
	return nil
}

func (m *machine) addRun(kvm, vcpu int) error {
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil {
		return fmt.Errorf("ask for the size of a vCPU: %w", err)
	}
	m.run, err = unix.Mmap(vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the vCPU: %w", err)
	}
	var s systemRegisters
	if _, err := ioctl(vcpu, kvmGetSregs, uintptr(unsafe.Pointer(&s))); err != nil {
		return fmt.Errorf("read registers: %w", err)
	}
	s.protect()
	if _, err := ioctl(vcpu, kvmSetSregs, uintptr(unsafe.Pointer(&s))); err != nil {
		return fmt.Errorf("write registers: %w", err)
	}
	return nil
}

// protect sets up flat segments and CR0.PE; segment types are those of the Intel SDM, volume 3, section 3.4.5.1.
func (s *systemRegisters) protect() {
	flat := segment{limit: math.MaxUint32, selector: 8, kind: 11, present: 1, db: 1, s: 1, granularity: 1}
	s.cs = flat
	flat.selector, flat.kind = 16, 3
	s.ds, s.es, s.fs, s.gs, s.ss = flat, flat, flat, flat, flat
	s.cr0 |= 1
}

// interrupt makes KVM_RUN return at its next entry. It may be called at any time.
func (m *machine) interrupt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run != nil {
		m.run[runImmediateExit] = 1
	}
}

func (m *machine) unmapRun() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run != nil {
		_ = unix.Munmap(m.run)
		m.run = nil
	}
}

func (m *machine) vcpu() int { return m.files[2] }

func (m *machine) close() {
	m.unmapRun()
	for i := len(m.files) - 1; i >= 0; i-- {
		unix.Close(m.files[i])
	}
	if m.memory != nil {
		_ = unix.Munmap(m.memory)
	}
}

// measure closes m and returns its speed in millions of instructions a second. It returns soon after ctx
// ends, even if the vCPU cannot be stopped: then its thread and m are lost until the program ends.
func (m *machine) measure(ctx context.Context) (float64, error) {
	type result struct {
		mips float64
		err  error
	}
	thread := make(chan int, 1)
	measured := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		mips, err := m.count()
		m.close()
		measured <- result{mips, err}
	}()
	tid := <-thread
	select {
	case r := <-measured:
		return r.mips, r.err
	case <-ctx.Done():
	}
	m.interrupt()
	for range 20 { // the signal may come just before KVM_RUN is entered, which then returns at once
		_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG) // the runtime's own: it has a handler, and does no harm
		select {
		case r := <-measured:
			return r.mips, r.err
		case <-time.After(2 * time.Millisecond):
		}
	}
	return 0, errors.New("its vCPU cannot be stopped")
}

// count runs ever longer loops until one was long enough to be measured well, and returns the best of three such
// speeds, as a busy host takes the processor away. The first loop is so short that even emulation at 2 million
// instructions a second ends it in time.
func (m *machine) count() (float64, error) {
	const enough = 10 * time.Millisecond
	best, runs := 0.0, 0
	for loops := uint32(10_000); runs < 3; {
		start := time.Now()
		if err := m.loop(loops); err != nil {
			return 0, err
		}
		took := time.Since(start)
		if took < enough && loops < 1<<28 {
			loops *= 4
			continue
		}
		runs++
		best = max(best, 2*float64(loops)/float64(took.Microseconds()))
	}
	return best, nil
}

// loop runs 2*loops instructions, or less if it is interrupted, which is an error.
func (m *machine) loop(loops uint32) error {
	r := registers{rcx: uint64(loops), rflags: 2} // bit 1 of RFLAGS is always set
	if _, err := ioctl(m.vcpu(), kvmSetRegs, uintptr(unsafe.Pointer(&r))); err != nil {
		return fmt.Errorf("write registers: %w", err)
	}
	for {
		_, err := ioctl(m.vcpu(), kvmRun, 0)
		switch {
		case errors.Is(err, unix.EINTR) && m.run[runImmediateExit] == 0:
			continue // one of the runtime's own signals
		case errors.Is(err, unix.EINTR):
			return fmt.Errorf("%d instructions did not end in time", 2*loops)
		case err != nil:
			return err
		}
		if reason := binary.LittleEndian.Uint32(m.run[runExitReason:]); reason != exitHLT {
			return fmt.Errorf("the guest ended with exit reason %d instead of a halt", reason)
		}
		return nil
	}
}

func ioctl(fd int, request, argument uintptr) (int, error) {
	value, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
	if errno != 0 {
		return -1, errno
	}
	return int(value), nil
}
