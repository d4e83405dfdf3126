package pager

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/vm/uffd"
)

// changing is how long to wait until the event has been read that says what is being given back.
const changing = 100 * time.Microsecond

// guest is the memory of a VM that runs. Places in it are offsets in the memory as a file.
type guest struct {
	file    *os.File // the userfaultfd
	fd      int
	regions []region

	// mu is held for writing while events are read, and for reading while pages are put in place. Who gives memory back waits until that was
	// read, and only then it is gone. So a page is put in place before it goes, or not at all.
	mu      sync.RWMutex
	removed []uint64 // a bit for each page that was given back: it is zeros when it is asked for again

	left atomic.Bool // the kernel has the memory, or is about to
}

// newGuest takes over fd, a userfaultfd that does not block.
func newGuest(fd int, regions []region) *guest {
	last := regions[len(regions)-1]
	pages := (last.Offset + last.Size) / uffd.PageSize
	return &guest{file: os.NewFile(uintptr(fd), "userfaultfd"), fd: fd, regions: regions, removed: make([]uint64, (pages+63)/64)}
}

// stop ends next.
func (g *guest) stop() { _ = g.file.SetReadDeadline(time.Unix(1, 0)) } // a userfaultfd can be polled

// next waits for events, notes what was given back, and returns the pages that are waited for. It fails after stop.
func (g *guest) next() ([]uint64, error) {
	raw, err := g.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var faults []uint64
	var failed error
	err = raw.Read(func(uintptr) bool {
		var seen bool
		seen, faults, failed = g.read()
		return seen || failed != nil
	})
	return faults, errors.Join(err, failed)
}

func (g *guest) read() (seen bool, faults []uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	events, err := uffd.Read(g.fd)
	for _, e := range events {
		if e.Removed.Length > 0 {
			g.forget(e.Removed)
		} else if at, ok := g.offset(e.Fault); ok {
			faults = append(faults, at/uffd.PageSize)
		}
	}
	return len(events) > 0, faults, err
}

// forget notes that memory was given back.
func (g *guest) forget(r uffd.Range) {
	for _, known := range g.regions {
		from, to := max(r.Start, known.Base), min(r.Start+r.Length, known.Base+known.Size)
		for address := from; address < to; address += uffd.PageSize {
			page := (address - known.Base + known.Offset) / uffd.PageSize
			g.removed[page/64] |= 1 << (page % 64)
		}
	}
}

// gone reports whether a page was given back. The caller holds mu.
func (g *guest) gone(page uint64) bool { return g.removed[page/64]&(1<<(page%64)) != 0 }

func (g *guest) isGone(page uint64) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.gone(page)
}

func (g *guest) offset(address uint64) (uint64, bool) {
	for _, r := range g.regions {
		if address >= r.Base && address-r.Base < r.Size {
			return address - r.Base + r.Offset, true
		}
	}
	return 0, false
}

// piece is a part of the guest's memory that lies in one region.
type piece struct{ address, offset, length uint64 }

// pieces cuts a part of the memory at the borders of regions.
func (g *guest) pieces(offset, length uint64) (all []piece) {
	for _, r := range g.regions {
		from, to := max(offset, r.Offset), min(offset+length, r.Offset+r.Size)
		if from < to {
			all = append(all, piece{r.Base + from - r.Offset, from, to - from})
		}
	}
	return all
}

// put puts data, or length zeros where it is nil, at an offset, but for pages that are there or were given back, and wakes who waits there.
func (g *guest) put(offset, length uint64, data []byte) error {
	for _, p := range g.pieces(offset, length) {
		var content []byte
		if data != nil {
			content = data[p.offset-offset:][:p.length]
		}
		if err := g.putPiece(p, content); err != nil {
			return err
		}
		// Also who waits for a page that was given back: he asks again, and gets zeros.
		if err := uffd.Wake(g.fd, uffd.Range{Start: p.address, Length: p.length}); err != nil {
			return err
		}
	}
	return nil
}

func (g *guest) putPiece(p piece, data []byte) error {
	for at := uint64(0); at < p.length; {
		n, err := g.putSome(p, at, data)
		at += n
		if errors.Is(err, uffd.ErrChanging) {
			<-time.After(changing)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putSome does one step from at on, and returns how long it was.
func (g *guest) putSome(p piece, at uint64, data []byte) (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	end := at
	for end < p.length && g.gone((p.offset+end)/uffd.PageSize) {
		end += uffd.PageSize
	}
	if end > at {
		return end - at, nil
	}
	for end < p.length && !g.gone((p.offset+end)/uffd.PageSize) {
		end += uffd.PageSize
	}
	n, err := g.fill(p.address+at, end-at, data, at)
	switch {
	case errors.Is(err, unix.EEXIST):
		return uffd.PageSize, nil
	case g.isLeft(err):
		return p.length - at, nil
	}
	return uint64(n), err
}

// fill puts a part of data, or zeros where that is nil.
func (g *guest) fill(address, length uint64, data []byte, from uint64) (int, error) {
	if data == nil {
		return uffd.Zero(g.fd, uffd.Range{Start: address, Length: length})
	}
	return uffd.Copy(g.fd, address, data[from:from+length])
}

// isLeft reports whether an error says that the memory is the kernel's already: then nobody waits for what was to be put there.
func (g *guest) isLeft(err error) bool { return errors.Is(err, unix.ENOENT) && g.left.Load() }

// zero gives zeros for a page that was given back.
func (g *guest) zero(page uint64) error {
	for _, p := range g.pieces(page*uffd.PageSize, uffd.PageSize) {
		for {
			_, err := uffd.Zero(g.fd, uffd.Range{Start: p.address, Length: p.length})
			switch {
			case errors.Is(err, uffd.ErrChanging):
				<-time.After(changing)
				continue
			case errors.Is(err, unix.EEXIST): // somebody was quicker
				err = uffd.Wake(g.fd, uffd.Range{Start: p.address, Length: p.length})
			}
			if err != nil && !g.isLeft(err) {
				return err
			}
			break
		}
	}
	return nil
}

// leave leaves the memory to the kernel: what is not there is zeros. It returns when nobody waits for anything to be read any more, who gave memory back
// while this was going on.
func (g *guest) leave() error {
	g.left.Store(true)
	for _, r := range g.regions {
		if err := uffd.Unregister(g.fd, uffd.Range{Start: r.Base, Length: r.Size}); err != nil {
			return err
		}
	}
	first := uffd.Range{Start: g.regions[0].Base, Length: uffd.PageSize}
	for {
		// That memory changes is looked at before whether it is registered: userfaultfd_zeropage in fs/userfaultfd.c of Linux.
		if _, err := uffd.Zero(g.fd, first); !errors.Is(err, uffd.ErrChanging) {
			return nil
		}
		if _, _, err := g.read(); err != nil {
			return err
		}
	}
}
