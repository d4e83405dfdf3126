package pager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// file is the local file that memory is brought into, block by block.
type file struct {
	*os.File
	source   Source
	life     context.Context // of what is being brought
	end      context.CancelFunc
	bringing sync.WaitGroup

	mu     sync.Mutex
	here   []bool            // which blocks are in the file; guarded by mu
	coming map[int64]*flight // guarded by mu
}

// flight is a block that is being brought, for all who want it.
type flight struct {
	landed chan struct{} // closed when err is set
	err    error
}

func openFile(path string, size int64, source Source) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (info.Size() != size || size%BlockSize != 0) {
		err = fmt.Errorf("%s has %d bytes, not %d, or they are no whole blocks", path, info.Size(), size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	life, end := context.WithCancel(context.Background())
	return &file{File: f, source: source, life: life, end: end, here: make([]bool, size/BlockSize), coming: map[int64]*flight{}}, nil
}

// close ends what is being brought. Nothing more is asked for.
func (f *file) close() error {
	f.end()
	f.bringing.Wait()
	return f.Close()
}

func (f *file) blocks() int64 { return int64(len(f.here)) }

// bring brings a block, once for all who want it at the same time, and within limit. One of zeros stays a hole.
func (f *file) bring(ctx context.Context, i int64, limit time.Duration) error {
	coming := f.begin(i, limit)
	if coming == nil {
		return nil
	}
	select {
	case <-coming.landed:
		return coming.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin returns the flight of a block; nil where it is here.
func (f *file) begin(i int64, limit time.Duration) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.here[i] {
		return nil
	}
	coming := f.coming[i]
	if coming == nil {
		coming = &flight{landed: make(chan struct{})}
		f.coming[i] = coming
		f.bringing.Go(func() { f.land(i, coming, f.fetch(i, limit)) })
	}
	return coming
}

func (f *file) land(i int64, coming *flight, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.here[i] = err == nil
	delete(f.coming, i)
	coming.err = err
	close(coming.landed)
}

func (f *file) fetch(i int64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(f.life, limit)
	defer cancel()
	data, err := f.source.Block(ctx, i)
	if err != nil {
		return err
	}
	if data != nil && len(data) != BlockSize {
		return models.Errorf(models.Precondition, "block %d of the memory has %d bytes", i, len(data))
	}
	_, err = f.WriteAt(data, i*BlockSize)
	return err
}

// read returns a block that is here; nil for one of zeros.
func (f *file) read(i int64) ([]byte, error) {
	next, err := unix.Seek(int(f.Fd()), i*BlockSize, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && next >= (i+1)*BlockSize {
		return nil, nil
	}
	data := make([]byte, BlockSize)
	_, err = f.ReadAt(data, i*BlockSize)
	return data, err
}
