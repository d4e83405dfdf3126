package boot

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

const (
	// Memory is filled in large steps while there is much, then in small ones, until scrubRest is left: the kernel itself needs some, and takes
	// what it needs from the cache of files when there is less than its watermark, which is lowered meanwhile.
	scrubStep, scrubLast, scrubRest = 4 << 20, 256 << 10, 1 << 20
	watermark                       = "/proc/sys/vm/min_free_kbytes" // Documentation/admin-guide/sysctl/vm.rst
	lowWatermark                    = "256"
)

// Sync writes what waits to be written to the disk: each VM made from a snapshot of the guest would do it.
func (m *Machine) Sync() error {
	unix.Sync()
	return nil
}

// Scrub fills the memory that nobody uses with zeros, so that a snapshot of the guest is small, and holds nothing of what is over. What was read of the disk goes
// where that memory runs short.
func (m *Machine) Scrub() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	unix.Sync()          // what is dirty cannot be given up
	debug.FreeOSMemory() // envd's own garbage
	usual, err := os.ReadFile(watermark)
	if err != nil {
		return err
	}
	if err := os.WriteFile(watermark, []byte(lowWatermark), 0); err != nil {
		return err
	}
	var pipes []int
	var filled [][]byte
	if err = fillFree(&filled); err == nil && len(filled) > pipeRoom { // what is left now is mostly of the kind that pipes are made of
		for _, block := range filled[:pipeRoom] {
			err = errors.Join(err, unix.Munmap(block))
		}
		filled = filled[pipeRoom:]
		err = errors.Join(err, fillPipes(&pipes))
	}
	for _, end := range pipes {
		err = errors.Join(err, unix.Close(end))
	}
	for _, block := range filled {
		err = errors.Join(err, unix.Munmap(block))
	}
	if err = errors.Join(err, os.WriteFile(watermark, usual, 0)); err != nil {
		return fmt.Errorf("fill the free memory: %w", err)
	}
	return nil
}

// Pipes take pipeCount times pipeSize, more than was left, after pipeRoom large steps have been given back for them.
const pipeSize, pipeCount, pipeRoom = 1 << 20, 4, 2

// fillPipes fills what memory of programs was not made of: the kernel keeps apart what it uses itself, as for pipes, where free memory of programs may lie, too.
func fillPipes(ends *[]int) error {
	zeros := make([]byte, pipeSize)
	for range pipeCount {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return os.NewSyscallError("pipe2", err)
		}
		*ends = append(*ends, pipe[:]...)
		if _, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_SETPIPE_SZ, pipeSize); err != nil {
			return os.NewSyscallError("F_SETPIPE_SZ", err)
		}
		if _, err := unix.Write(pipe[1], zeros); err != nil {
			return os.NewSyscallError("write", err)
		}
	}
	return nil
}

// fillFree takes nearly all free memory: the kernel fills with zeros what it hands out.
func fillFree(filled *[][]byte) error {
	for {
		free, err := memory("MemFree")
		if err != nil || free < scrubRest+scrubLast {
			return err
		}
		step := scrubStep
		if free < 4*scrubStep {
			step = scrubLast
		}
		block, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		if err != nil {
			return err
		}
		*filled = append(*filled, block)
	}
}
