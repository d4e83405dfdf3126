package archive

import (
	"os"
	"slices"
	"sort"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// extent is a run of a file that lies in one piece on the disk, all in bytes.
type extent struct{ logical, physical, length uint64 }

// layout is where a file's data lies.
type layout []extent

// Numbers of linux/fiemap.h and linux/fs.h.
const (
	fsIocFiemap    = 0xc020660b
	fiemapSync     = 0x1
	extentLast     = 0x1
	extentShared   = 0x2000
	extentMerged   = 0x1000
	extentsPerCall = 512
)

type fiemapExtent struct {
	extent
	_     [2]uint64
	flags uint32
	_     [3]uint32
}

type fiemap struct {
	start, length                  uint64
	flags, mapped, count, reserved uint32
	extents                        [extentsPerCall]fiemapExtent
}

// layoutOf asks the file system where a file lies. It returns nil where that is not known for all of it: no FIEMAP, data that is not
// written yet, or is compressed, or lies among metadata.
func layoutOf(f *os.File) layout {
	l := layout{}
	for start := uint64(0); ; {
		m := fiemap{start: start, length: ^uint64(0) - start, flags: fiemapSync, count: extentsPerCall}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(&m))) //nolint:gosec // the kernel fills in what it was given room for
		if errno != 0 {
			return nil
		}
		for _, e := range m.extents[:m.mapped] {
			if e.flags&^(extentLast|extentShared|extentMerged) != 0 {
				return nil
			}
			l = l.add(e.extent)
			start = e.logical + e.length
			if e.flags&extentLast != 0 {
				return l
			}
		}
		if m.mapped == 0 {
			return l
		}
	}
}

// add joins what lies in one piece: two files may have the same blocks, and their file system describe them in other pieces.
func (l layout) add(e extent) layout {
	if n := len(l); n > 0 {
		last := &l[n-1]
		if last.logical+last.length == e.logical && last.physical+last.length == e.physical {
			last.length += e.length
			return l
		}
	}
	return append(l, e)
}

// chunk returns where chunk i lies.
func (l layout) chunk(i int64) (pieces []extent) {
	start, end := uint64(i)*snapshot.ChunkSize, uint64(i+1)*snapshot.ChunkSize
	first := sort.Search(len(l), func(k int) bool { return l[k].logical+l[k].length > start })
	for _, e := range l[first:] {
		if e.logical >= end {
			break
		}
		from, to := max(start, e.logical), min(end, e.logical+e.length)
		pieces = append(pieces, extent{from, e.physical + from - e.logical, to - from})
	}
	return pieces
}

// sharing tells which chunks of a file lie where those of another do, and so are the same.
type sharing struct{ one, other layout }

// sharingOf compares two files; other may be missing.
func sharingOf(f *os.File, other string) sharing {
	o, err := os.Open(other)
	if err != nil {
		return sharing{}
	}
	defer o.Close()
	if !sameDevice(f, o) {
		return sharing{}
	}
	return sharing{layoutOf(f), layoutOf(o)}
}

func sameDevice(a, b *os.File) bool {
	one, err1 := a.Stat()
	two, err2 := b.Stat()
	return err1 == nil && err2 == nil && one.Sys().(*syscall.Stat_t).Dev == two.Sys().(*syscall.Stat_t).Dev
}

func (s sharing) same(i int64) bool {
	return s.one != nil && s.other != nil && slices.Equal(s.one.chunk(i), s.other.chunk(i))
}
