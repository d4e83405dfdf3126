package snapshot

import (
	"crypto/sha256"
	"os"

	"golang.org/x/sys/unix"
)

// slowDigest is Digest at the pace of wait. With fromDisk nothing of the file is taken from the page cache, or left there, but for what is mapped.
func slowDigest(path string, fromDisk bool, wait func() error) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	sums := make([][sha256.Size]byte, (info.Size()+ChunkSize-1)/ChunkSize)
	for i := range sums {
		sums[i] = ZeroSum
	}
	buffer := make([]byte, ChunkSize)
	for i, err := range DataChunks(f, info.Size()) {
		if err == nil {
			err = wait()
		}
		if err == nil {
			err = readAlone(f, i, buffer, fromDisk)
		}
		if err != nil {
			return "", err
		}
		sums[i] = sha256.Sum256(buffer)
	}
	return DigestOf(sums, info.Size()), nil
}

func readAlone(f *os.File, i int64, buffer []byte, fromDisk bool) error {
	drop := func() {
		if fromDisk {
			_ = unix.Fadvise(int(f.Fd()), i*ChunkSize, ChunkSize, unix.FADV_DONTNEED) // a hint: posix_fadvise(2)
		}
	}
	drop()
	defer drop()
	return ReadChunk(f, i, buffer)
}
