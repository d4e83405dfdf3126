// Package pager gives a VM its memory while it runs already: page by page as the guest comes to it, and the rest meanwhile.
//
// It is a program of its own, one process a VM (Start, Main), so that the end of the agent ends no VM: docs/adr/0021-memory-comes-later.md. The VMM makes
// a userfaultfd of its guest's memory and sends it through a socket; from then on a pager
//
//   - brings blocks from a Source into a local file: those that the guest waits for first, then the working set that was
//     recorded when the same guest was last woken, then the rest;
//   - puts them from the file into the guest's memory, each page once, and none that the guest has given back since;
//   - records in which order the guest came to its blocks, for the next time;
//   - when all is there, leaves the memory to the kernel, and ends. The file is then what the guest was restored from, whole.
//
// What cannot be brought in time ends the VM, with the reason in a file that the driver reads: a guest waits for a page, or is gone, but never
// goes on with a wrong one.
package pager

import (
	"context"
	"encoding/json"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/vm/vmm"
)

// BlockSize is the size of the blocks that memory is brought in.
const BlockSize = 512 << 10

// Source is where a VM's memory lies. It is asked for several blocks at once.
type Source interface {
	// Block returns block i, whole and checked; nil for one of zeros. An error that is models.Precondition is for good; with others it is asked again.
	Block(ctx context.Context, i int64) ([]byte, error)
}

// Order is what a pager is told when it is started. It may hold secrets, and is written nowhere.
type Order struct {
	VMM    vmm.Identity    // whose memory it is
	Memory string          // the local file: sparse, of the size of the memory, with nothing in it
	Size   int64           // of the memory, in bytes: whole blocks
	Source json.RawMessage // what the program makes its Source of
	First  []int64         // the working set: blocks in the order in which they are brought first
	Record string          // the file for the working set of this time; "" for none
	End    string          // the file that says how it ended
	// Patience is how long a guest waits for a page at most, before its VM is ended; 0 for defaultPatience.
	Patience time.Duration
	// Window is for how long it is recorded what the guest comes to; 0 for DefaultWindow. Meanwhile blocks are brought, but given to the guest only when
	// it comes to them.
	Window time.Duration
}

const defaultPatience = time.Minute

// DefaultWindow is how long it is recorded, at most, what a guest comes to.
const DefaultWindow = 5 * time.Second

// End is how a pager ended.
type End struct {
	Whole  bool   // all memory is there, and in the file
	Reason string // why the VM was ended; "" where it was not, or ended itself
}
