package pager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
)

// workingSet is what a guest came to first: blocks, in that order. It makes the next restore quicker, and is of no other account.
type workingSet struct {
	BlockSize int     `json:"block_size"`
	Blocks    []int64 `json:"blocks"`
}

// maxWorkingSet bounds the file: that of a guest of 512 GiB that came to all of its memory.
const maxWorkingSet = 16 << 20

// ReadWorkingSet returns the blocks that were recorded in a file; none where it is missing, and an error, for the log, where it makes no sense.
func ReadWorkingSet(path string) ([]int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var set workingSet
	text, err := os.ReadFile(path)
	if err == nil && info.Size() <= maxWorkingSet {
		err = json.Unmarshal(text, &set)
	}
	if err == nil && set.BlockSize != BlockSize {
		err = fmt.Errorf("the blocks of %s have %d bytes", path, set.BlockSize)
	}
	if err != nil {
		return nil, fmt.Errorf("read the working set: %w", err)
	}
	return set.Blocks, nil
}

// WriteWorkingSet keeps blocks in a file.
func WriteWorkingSet(path string, blocks []int64) error {
	return durable.WriteJSON(path, workingSet{BlockSize: BlockSize, Blocks: blocks}, 0o600)
}

// recorder notes the blocks that a guest comes to.
type recorder struct {
	mu    sync.Mutex
	seen  map[int64]bool
	order []int64
}

func newRecorder() *recorder { return &recorder{seen: map[int64]bool{}} }

func (r *recorder) note(block int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.seen[block] {
		r.seen[block] = true
		r.order = append(r.order, block)
	}
}

// blocks returns what was noted.
func (r *recorder) blocks() []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.order)
}
