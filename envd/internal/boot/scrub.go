package boot

import (
	"errors"
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// scrubStep is how much memory is filled at once, and scrubRest how much stays free meanwhile: above the kernel's watermarks, so that it takes
// nothing away from anybody for it.
const scrubStep, scrubRest = 4 << 20, 16 << 20

// Scrub fills the memory that nobody uses with zeros, so that a snapshot of the guest is small, and holds nothing of what is over. What waits
// to be written to the disk is written first: each VM made from the snapshot would do it.
func (m *Machine) Scrub() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	unix.Sync()
	debug.FreeOSMemory() // envd's own garbage
	var filled [][]byte
	err := fillFree(&filled)
	for _, block := range filled {
		err = errors.Join(err, unix.Munmap(block))
	}
	if err != nil {
		return fmt.Errorf("fill the free memory: %w", err)
	}
	return nil
}

// fillFree takes nearly all free memory: the kernel fills with zeros what it hands out.
func fillFree(filled *[][]byte) error {
	for {
		free, err := memory("MemFree")
		if err != nil || free < scrubRest+scrubStep {
			return err
		}
		block, err := unix.Mmap(-1, 0, scrubStep, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		if err != nil {
			return err
		}
		*filled = append(*filled, block)
	}
}
