// Package clone makes files that have the content of others at little cost: by reflink, where two files share their blocks
// until one is written to, else by copying the data and leaving out the holes.
package clone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNoReflink means that two files cannot share blocks where they lie.
var ErrNoReflink = errors.New("no reflinks here")

// copyStep bounds one step of a copy, and so how long a cancelled one goes on.
const copyStep = 8 << 20

// File makes a new file dst with the content of src and reports whether it shares blocks, which is not tried without
// reflinks. On an error nothing is left of dst.
func File(ctx context.Context, src, dst string, reflinks bool) (shared bool, err error) {
	err = withFiles(src, dst, func(from, to *os.File) error {
		if !reflinks {
			return sparseCopy(ctx, from, to)
		}
		shared, err = Into(ctx, from, to)
		return err
	})
	return shared && err == nil, err
}

// Into gives to, an empty file, the content of from, and reports whether they share blocks.
func Into(ctx context.Context, from, to *os.File) (shared bool, err error) {
	if err := reflink(from, to); !errors.Is(err, ErrNoReflink) {
		return err == nil, err
	}
	return false, sparseCopy(ctx, from, to)
}

// Try makes a file dst share the blocks of src, or fails with ErrNoReflink. On an error nothing is left of dst.
func Try(src, dst string) error { return withFiles(src, dst, reflink) }

// withFiles calls f with src opened for reading and dst made, and removes dst if f fails.
func withFiles(src, dst string, f func(from, to *os.File) error) error {
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f(from, to), to.Close()); err != nil {
		return errors.Join(err, os.Remove(dst))
	}
	return nil
}

// reflink makes to share all blocks of from: FICLONE, ioctl_ficlonerange(2). XFS first writes
// out what is dirty of from, so a template is cloned fast only once it is synced.
func reflink(from, to *os.File) error {
	err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
	switch err {
	case nil:
		return nil
	case unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.EINVAL:
		return ErrNoReflink
	}
	return fmt.Errorf("clone %s to %s: %w", from.Name(), to.Name(), err)
}

// sparseCopy copies the data of from and leaves its holes out.
func sparseCopy(ctx context.Context, from, to *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return err
	}
	copyRange := rangeCopier()
	for data, err := range dataRuns(from) {
		if err != nil {
			return err
		}
		if err := copyData(ctx, copyRange, from, to, data.start, data.end); err != nil {
			return fmt.Errorf("copy %s to %s: %w", from.Name(), to.Name(), err)
		}
	}
	return nil
}

// ReadAhead has the kernel read the data of the file at path, the first most bytes of it, for whoever needs it in a moment: a clone shares what is on the disk with the file that it was
// made of, and not what of that is in memory. It returns when the reads are under way.
func ReadAhead(path string, most int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for data, err := range dataRuns(f) {
		if err != nil || most <= 0 {
			return err
		}
		n := min(data.end-data.start, most)
		if err := unix.Fadvise(int(f.Fd()), data.start, n, unix.FADV_WILLNEED); err != nil {
			return fmt.Errorf("read %s ahead: %w", path, err)
		}
		most -= n
	}
	return nil
}

// run is a part of a file that is data between holes.
type run struct{ start, end int64 }

// dataRuns returns a file's runs of data in order; the last pair may be an error.
func dataRuns(f *os.File) iter.Seq2[run, error] {
	return func(yield func(run, error) bool) {
		for next := (run{}); ; {
			var err error
			if next.start, err = f.Seek(next.end, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) { // no data behind it: lseek(2)
				return
			}
			if err == nil {
				next.end, err = f.Seek(next.start, unix.SEEK_HOLE)
			}
			if !yield(next, err) || err != nil {
				return
			}
		}
	}
}

func copyData(ctx context.Context, copyRange ranger, from, to *os.File, start, end int64) error {
	for start < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := copyRange(from, to, start, int(min(end-start, copyStep)))
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF // the source shrank meanwhile
		}
		start += int64(n)
	}
	return nil
}

// A ranger copies up to n bytes at offset from one file to the same place in another.
type ranger func(from, to *os.File, offset int64, n int) (int, error)

// rangeCopier returns a ranger that lets the kernel copy, and from the first time that the
// kernel does not do that between these two file systems, copies through memory.
func rangeCopier() ranger {
	var buffer []byte
	return func(from, to *os.File, offset int64, n int) (int, error) {
		if buffer == nil {
			in, out := offset, offset
			done, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, n, 0)
			if err == nil && done > 0 || errors.Is(err, unix.ENOSPC) {
				return done, err
			}
			buffer = make([]byte, 1<<20) // EXDEV, EOPNOTSUPP, ENOSYS, or 0 as some file systems answer
		}
		n, err := from.ReadAt(buffer[:min(n, len(buffer))], offset)
		if n == 0 {
			return 0, err
		}
		return to.WriteAt(buffer[:n], offset)
	}
}
