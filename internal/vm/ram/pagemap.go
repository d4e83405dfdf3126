package ram

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Bits of an entry of proc_pid_pagemap(5).
const (
	entrySize   = 8
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageOfFile  = 1 << 61 // or of shared memory
)

// pagemap says which pages of a process are its own.
type pagemap struct{ *os.File }

// bridge is how many bytes between two changed pages are saved again with them, which are what the file has already. Each piece that is written becomes an extent of a file that shares
// its blocks, and whoever clones or reads it pays for each: with less of them a pause and a resume take less, although more is written (docs/adr/0012-memory-of-vms-is-private.md).
const bridge = 7 * pageSize

// run is a number of pages, as offset and length in bytes.
type run struct{ start, length int64 }

func openPagemap(pid int) (pagemap, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	return pagemap{f}, err
}

// changed returns the runs of anonymous pages from address on, relative to it, with what is between those that are near to each other. A page that was never written to is
// not there, or a page of the file that is mapped.
func (p pagemap) changed(address uint64, length int64) ([]run, error) {
	entries := make([]byte, length/pageSize*entrySize)
	if _, err := p.ReadAt(entries, int64(address/pageSize*entrySize)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // the process has ended
		}
		return nil, fmt.Errorf("read %s: %w", p.Name(), err)
	}
	var runs []run
	for at := int64(0); at < length; at += pageSize {
		entry := binary.LittleEndian.Uint64(entries[at/pageSize*entrySize:])
		if entry&(pagePresent|pageSwapped) == 0 || entry&pageOfFile != 0 {
			continue
		}
		if last := len(runs) - 1; last >= 0 && at-runs[last].start-runs[last].length <= bridge {
			runs[last].length = at + pageSize - runs[last].start
		} else {
			runs = append(runs, run{at, pageSize})
		}
	}
	return runs, nil
}
