package direct

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

// random returns size bytes that are not the same twice.
func random(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(b) // never fails
	return b
}

// create makes an empty file on a disk, or, where O_DIRECT is to be refused, in the kernel's memory.
func create(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

// sizes are around the borders of pages and blocks.
func sizes() []int {
	all := []int{0, 1}
	for _, border := range []int{alignment, blockSize, 2 * blockSize, ahead} {
		all = append(all, border-1, border, border+1)
	}
	return all
}

func TestWrite(t *testing.T) {
	for _, size := range sizes() {
		for _, before := range []int{0, alignment, Worth} {
			t.Run(fmt.Sprintf("%d after %d", size, before), func(t *testing.T) {
				file, text := create(t), random(before+size)
				if _, err := file.Write(text[:before]); err != nil {
					t.Fatal(err)
				}
				if err := Write(file, iotest.HalfReader(bytes.NewReader(text[before:]))); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(got, text) {
					t.Errorf("the file has %d bytes, and not those that were written; %v", len(got), err)
				}
			})
		}
	}
}

// Whatever a body fails with is told, and never taken for its end.
func TestWriteOfABrokenBody(t *testing.T) {
	for _, cause := range []error{errors.ErrUnsupported, io.ErrUnexpectedEOF, fmt.Errorf("cut off: %w", io.EOF)} {
		for _, size := range sizes() {
			body := io.MultiReader(bytes.NewReader(random(size)), iotest.ErrReader(cause))
			if err := Write(create(t), body); err != cause {
				t.Errorf("after %d bytes: %v, want %v", size, err, cause)
			}
		}
	}
}

// endless never ends.
type endless struct{}

// Read implements io.Reader.
func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A device that refuses O_DIRECT is written to nevertheless, and that it has no room ends the reading of the body.
func TestWriteToAFullDevice(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }()
	if setDirect(full, true) {
		t.Fatal("/dev/full takes O_DIRECT")
	}
	if err := Write(full, endless{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
}

func TestSend(t *testing.T) {
	const size = 2*largeSize + 1234
	file, text := create(t), random(size)
	if _, err := file.Write(text); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int{0, 1, alignment, blockSize + 17, size} {
		for _, n := range []int{0, 1, alignment, blockSize - 1, blockSize, 2*blockSize + 1, size} {
			n = min(n, size-offset)
			if _, err := file.Seek(int64(offset), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			sent, err := Send(&got, file, int64(n))
			if err != nil || sent != int64(n) || !bytes.Equal(got.Bytes(), text[offset:offset+n]) {
				t.Errorf("%d bytes at %d: %d were sent, %d came; %v", n, offset, sent, got.Len(), err)
			}
		}
	}
}

// Few read in large blocks at once, and later ones again.
func TestShare(t *testing.T) {
	for range 2 {
		var ends []func()
		for i := range 2 * cap(large) {
			size, done := share()
			ends = append(ends, done)
			want := blockSize
			if i < cap(large) {
				want = largeSize
			}
			if size != want {
				t.Errorf("number %d reads %d at once, want %d", i, size, want)
			}
		}
		for _, done := range ends {
			done()
		}
	}
}

// What is sent is the same while others have the large blocks.
func TestSendInSmallBlocks(t *testing.T) {
	for range cap(large) {
		_, done := share()
		defer done()
	}
	file, text := create(t), random(3*blockSize)
	if _, err := file.WriteAt(text, 0); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if sent, err := Send(&got, file, int64(len(text))); err != nil || sent != int64(len(text)) || !bytes.Equal(got.Bytes(), text) {
		t.Errorf("%d bytes were sent, %d came; %v", sent, got.Len(), err)
	}
}

// A file that got shorter is not taken for whole.
func TestSendOfAShortenedFile(t *testing.T) {
	for _, size := range sizes() {
		file, text := create(t), random(size)
		if _, err := file.Write(text); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		sent, err := Send(&got, file, int64(size)+Worth)
		if !errors.Is(err, io.ErrUnexpectedEOF) || sent != int64(size) || !bytes.Equal(got.Bytes(), text) {
			t.Errorf("%d bytes: %d were sent; %v", size, sent, err)
		}
	}
}

// What /proc has cannot be read directly.
func TestSendOfWhatRefuses(t *testing.T) {
	want, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var got bytes.Buffer
	if _, err := Send(&got, file, alignment); err != nil || !bytes.Equal(got.Bytes(), want[:alignment]) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}

// A caller who goes away ends the reading.
func TestSendToNobody(t *testing.T) {
	file := create(t)
	if err := file.Truncate(20 * blockSize); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	if _, err := Send(failing{gone}, file, 20*blockSize); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}

// failing takes nothing.
type failing struct{ err error }

// Write implements io.Writer.
func (f failing) Write([]byte) (int, error) { return 0, f.err }
