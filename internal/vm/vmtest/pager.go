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
	Gate    string // while there is no file of this name, blocks of zeros, which a guest hardly ever asks for, take holdTime; "" for no gate
	Damaged bool   // every block is
}

// holdTime is longer than a guest takes to answer, and less than a pager waits for a block.
const holdTime = 10 * time.Second

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
	next, err := unix.Seek(int(l.file.Fd()), i*pager.BlockSize, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && next >= (i+1)*pager.BlockSize {
		return nil, l.hold(ctx)
	}
	data := make([]byte, pager.BlockSize)
	_, err = l.file.ReadAt(data, i*pager.BlockSize)
	return data, err
}

func (l lateFile) hold(ctx context.Context) error {
	if l.Gate == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, holdTime)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := os.Stat(l.Gate); err == nil || !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
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
