package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm/pager"
)

// pagerArgument makes a test binary the pager's program.
const pagerArgument = "pager"

// Pager is the command for a driver that restores VMs whose memory comes later: this test binary, which must call Main.
func Pager() ([]string, error) {
	self, err := os.Executable()
	return []string{self, pagerArgument}, err
}

// lateSource is where the memory of a VM of the suite comes from.
type lateSource struct {
	File    string // a snapshot's memory
	Gate    string // while there is no file of this name, block Held does not come; "" for no gate
	Held    int64
	Damaged bool // every block is
}

// runPager is the program of a pager.
func runPager() error {
	return pager.Main(context.Background(), func(_ context.Context, text json.RawMessage) (pager.Source, error) {
		var s lateSource
		if err := json.Unmarshal(text, &s); err != nil {
			return nil, err
		}
		f, err := os.Open(s.File)
		return lateFile{f, s}, err
	})
}

type lateFile struct {
	file *os.File
	lateSource
}

// Block implements pager.Source.
func (l lateFile) Block(ctx context.Context, i int64) ([]byte, error) {
	if l.Damaged {
		return nil, models.Errorf(models.Precondition, "block %d of the memory is damaged", i)
	}
	if i == l.Held {
		if err := l.hold(ctx); err != nil {
			return nil, err
		}
	}
	if isHole(l.file, i) {
		return nil, nil
	}
	data := make([]byte, pager.BlockSize)
	_, err := l.file.ReadAt(data, i*pager.BlockSize)
	return data, err
}

func isHole(f *os.File, i int64) bool {
	next, err := unix.Seek(int(f.Fd()), i*pager.BlockSize, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO) || err == nil && next >= (i+1)*pager.BlockSize
}

// unused returns the block in the middle of the longest run of holes of a memory: the one that its guest is least likely to come to.
func unused(f *os.File, blocks int64) int64 {
	best, length, run := int64(0), int64(0), int64(0)
	for i := range blocks {
		if run++; !isHole(f, i) {
			run = 0
		}
		if run > length {
			best, length = i-run/2, run
		}
	}
	return best
}

func (l lateFile) hold(ctx context.Context) error {
	if l.Gate == "" {
		return nil
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := os.Stat(l.Gate); err == nil || !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// pagerMain returns the exit status.
func pagerMain() int {
	if err := runPager(); err != nil {
		fmt.Fprintln(os.Stderr, "pager:", err)
		return 1
	}
	return 0
}
