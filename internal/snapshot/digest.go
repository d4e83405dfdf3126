package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"iter"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// ChunkSize is the size of the chunks that files are checked and stored in.
const ChunkSize = 512 << 10

// ZeroSum is the SHA-256 of a chunk of zeros.
var ZeroSum = sha256.Sum256(make([]byte, ChunkSize))

// Digest returns the digest of the file at path as the format has it: that of its chunks' sums and its size. Holes are not read, and all
// processors work.
func Digest(ctx context.Context, path string) (string, error) {
	sums, size, err := Sums(ctx, path)
	if err != nil {
		return "", err
	}
	return DigestOf(sums, size), nil
}

// Sums returns the sums of the chunks of the file at path, the last one filled up with zeros, and its size.
func Sums(ctx context.Context, path string) (sums [][sha256.Size]byte, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	sums, err = chunkSums(ctx, f, info.Size())
	return sums, info.Size(), err
}

// DigestOf returns the digest of a file of size bytes from the sums of its chunks, the last one filled up with zeros.
func DigestOf(sums [][sha256.Size]byte, size int64) string {
	h := sha256.New()
	for i := range sums {
		h.Write(sums[i][:])
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(size)))
	return hex.EncodeToString(h.Sum(nil))
}

func chunkSums(ctx context.Context, f *os.File, size int64) ([][sha256.Size]byte, error) {
	sums := make([][sha256.Size]byte, (size+ChunkSize-1)/ChunkSize)
	for i := range sums {
		sums[i] = ZeroSum
	}
	chunks := make(chan int64)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(chunks)
		return sendChunks(ctx, f, size, chunks)
	})
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error { return sumChunks(f, chunks, sums) })
	}
	return sums, group.Wait()
}

func sendChunks(ctx context.Context, f *os.File, size int64, chunks chan<- int64) error {
	for i, err := range DataChunks(f, size) {
		if err != nil {
			return err
		}
		select {
		case chunks <- i:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// DataChunks returns the numbers of the chunks of a file of size bytes that are not holes; the last pair may be an error.
func DataChunks(f *os.File, size int64) iter.Seq2[int64, error] {
	return func(yield func(int64, error) bool) {
		for offset := int64(0); offset < size; {
			data, err := f.Seek(offset, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) { // no data behind offset: lseek(2)
				return
			}
			if !yield(data/ChunkSize, err) || err != nil {
				return
			}
			offset = (data/ChunkSize + 1) * ChunkSize
		}
	}
}

// sumChunks sums the chunks that it is sent, at their places in sums.
func sumChunks(f *os.File, chunks <-chan int64, sums [][sha256.Size]byte) error {
	buffer := make([]byte, ChunkSize)
	for i := range chunks {
		if err := ReadChunk(f, i, buffer); err != nil {
			return err
		}
		sums[i] = sha256.Sum256(buffer)
	}
	return nil
}

// ReadChunk reads a chunk into buffer, which has ChunkSize bytes; what is behind the end of the file is zeros.
func ReadChunk(f io.ReaderAt, i int64, buffer []byte) error {
	n, err := f.ReadAt(buffer, i*ChunkSize)
	clear(buffer[n:])
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
