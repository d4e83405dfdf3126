// Package ram saves the memory of a frozen VM to a file, from outside of its VMM.
//
// A VMM maps its guest's memory privately: from nothing, if the guest was booted, or from the memory file of the snapshot that it was
// restored from. What the guest has changed is then the anonymous pages of that mapping, which the kernel lists
// (proc_pid_pagemap(5)). So a save costs what was changed, however large the guest is: the file begins as a clone of the one that
// is mapped, and gets the changed pages. The VMM takes no part in it, and need not be trusted.
package ram

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
)

// Guest says where a guest's memory lies. Its processors must not run.
type Guest struct {
	PID     int
	Address uint64 // in the VMM's address space, of whole pages
	Size    int64
	Base    string // the file that the memory is mapped from, where the VMM has mapped another one with the same content; "" for the one that is mapped
}

// step is how much memory is looked at and copied at once.
const step = 4 << 20

// pageSize is that of every x86-64 machine.
const pageSize = 4096

// Save makes a new file path with the content of the guest's memory. Zeros are holes. The file is not synced. On an error
// nothing is left of it.
func Save(ctx context.Context, g Guest, path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("save the guest's memory: %w", err)
	}
	if err := errors.Join(g.save(ctx, f), f.Close()); err != nil {
		return fmt.Errorf("save the guest's memory to %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	return nil
}

func (g Guest) save(ctx context.Context, to *os.File) error {
	base, err := g.openBase()
	if err == nil && g.Base != "" {
		base, err = instead(base, g.Base)
	}
	if err != nil {
		return err
	}
	s := saver{Guest: g, to: to, filled: base != nil, buffer: make([]byte, step)}
	if base != nil {
		_, err := clone.Into(ctx, base, to)
		if err := errors.Join(err, base.Close()); err != nil {
			return err
		}
	}
	if err := to.Truncate(g.Size); err != nil {
		return err
	}
	return s.copyChanged(ctx)
}

// instead opens the file at path in the place of mapped, which must have its size.
func instead(mapped *os.File, path string) (*os.File, error) {
	if mapped == nil {
		return nil, fmt.Errorf("the guest's memory is mapped from no file, and not from what %s holds", path)
	}
	defer mapped.Close()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	have, err := mapped.Stat()
	want, statErr := f.Stat()
	if err = errors.Join(err, statErr); err == nil && have.Size() != want.Size() {
		err = fmt.Errorf("the guest's memory is mapped from %d bytes, and %s has %d", have.Size(), path, want.Size())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// saver copies changed pages.
type saver struct {
	Guest
	to     *os.File
	filled bool // whether to has data already, so that zeros have to be written
	buffer []byte
}

func (s *saver) copyChanged(ctx context.Context) error {
	pages, err := openPagemap(s.PID)
	if err != nil {
		return err
	}
	defer pages.Close()
	for offset := int64(0); offset < s.Size; offset += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		runs, err := pages.changed(s.Address+uint64(offset), min(step, s.Size-offset))
		if err != nil {
			return err
		}
		for _, r := range runs {
			if err := s.copyRun(offset+r.start, r.length); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyRun copies length bytes at offset, step at most.
func (s *saver) copyRun(offset, length int64) error {
	data := s.buffer[:length]
	if err := read(s.PID, s.Address+uint64(offset), data); err != nil {
		return err
	}
	for len(data) > 0 {
		n, zero := sameKind(data)
		if err := s.put(data[:n], offset, zero); err != nil {
			return err
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

func (s *saver) put(data []byte, offset int64, zero bool) error {
	if zero && !s.filled {
		return nil
	}
	if zero {
		err := unix.Fallocate(int(s.to.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, int64(len(data)))
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	_, err := s.to.WriteAt(data, offset)
	return err
}

// sameKind returns the length of the pages at the beginning of data that are all zero, or all not.
func sameKind(data []byte) (n int, zero bool) {
	zero = isZero(data[:pageSize])
	for n = pageSize; n < len(data) && isZero(data[n:n+pageSize]) == zero; n += pageSize {
	}
	return n, zero
}

func isZero(page []byte) bool { return [pageSize]byte(page) == [pageSize]byte{} }

// read reads memory of another process: process_vm_readv(2).
func read(pid int, address uint64, into []byte) error {
	for len(into) > 0 {
		local := unix.Iovec{Base: &into[0]}
		local.SetLen(len(into))
		remote := unix.RemoteIovec{Base: uintptr(address), Len: len(into)}
		n, err := unix.ProcessVMReadv(pid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
		if err != nil {
			return fmt.Errorf("read %d bytes at %#x of process %d: %w", len(into), address, pid, err)
		}
		into, address = into[n:], address+uint64(n)
	}
	return nil
}

// DigHoles makes holes of the pages of a file that are zero.
func DigHoles(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s := saver{to: f, filled: true, buffer: make([]byte, step)}
	return errors.Join(s.dig(ctx), f.Close())
}

func (s *saver) dig(ctx context.Context) error {
	for offset := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := s.to.ReadAt(s.buffer, offset)
		data := s.buffer[:n/pageSize*pageSize]
		for len(data) > 0 {
			same, zero := sameKind(data)
			if zero {
				if err := s.put(data[:same], offset, true); err != nil {
					return err
				}
			}
			data, offset = data[same:], offset+int64(same)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
