// Package pagertest does what a VMM does whose guest's memory comes later.
package pagertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm/uffd"
)

// Memory is a guest's memory, of which nothing is there. Whoever reads what is missing waits, and holds up this program's garbage collection: the pager
// has to be another process.
type Memory struct {
	Regions [][]byte
	fd      *os.File
	conn    *net.UnixConn // kept open, as by Firecracker
}

// Mapping describes a region, as Firecracker does: GuestRegionUffdMapping in its src/vmm/src/persist.rs.
type Mapping struct {
	Base        uint64 `json:"base_host_virt_addr"`
	Size        int    `json:"size"`
	Offset      uint64 `json:"offset"`
	PageSize    int    `json:"page_size"`
	PageSizeKiB int    `json:"page_size_kib"` // in bytes too
}

// Map maps regions of these sizes, one after the other the memory as a file, and sends them to the pager that listens on a socket.
func Map(socket string, sizes ...int) (*Memory, error) {
	fd, err := uffd.Create(uffd.EventRemove)
	if err != nil {
		return nil, err
	}
	m := &Memory{fd: fd}
	var mappings []Mapping
	for offset, i := 0, 0; i < len(sizes); i++ {
		region, err := unix.Mmap(-1, 0, sizes[i], unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			return nil, errors.Join(err, fd.Close())
		}
		base := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(region))))
		if err := m.control(func(fd int) error { return uffd.Register(fd, uffd.Range{Start: base, Length: uint64(sizes[i])}) }); err != nil {
			return nil, errors.Join(err, fd.Close())
		}
		m.Regions = append(m.Regions, region)
		mappings = append(mappings, Mapping{base, sizes[i], uint64(offset), uffd.PageSize, uffd.PageSize})
		offset += sizes[i]
	}
	if err := m.send(socket, mappings); err != nil {
		return nil, errors.Join(err, fd.Close())
	}
	return m, nil
}

// Close lets go of the memory, which is not to be read any more.
func (m *Memory) Close() error {
	err := errors.Join(m.conn.Close(), m.fd.Close())
	for _, region := range m.Regions {
		err = errors.Join(err, unix.Munmap(region))
	}
	return err
}

func (m *Memory) send(socket string, mappings []Mapping) error {
	text, err := json.Marshal(mappings)
	if err != nil {
		return err
	}
	if m.conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"}); err != nil {
		return err
	}
	return m.control(func(fd int) error {
		if _, _, err := m.conn.WriteMsgUnix(text, unix.UnixRights(fd), nil); err != nil {
			return fmt.Errorf("send the memory: %w", err)
		}
		return nil
	})
}

// control keeps the descriptor from blocking, which Fd would make it.
func (m *Memory) control(f func(fd int) error) error {
	raw, err := m.fd.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	return errors.Join(raw.Control(func(fd uintptr) { inner = f(int(fd)) }), inner)
}
