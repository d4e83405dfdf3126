package snapshot

import "path/filepath"

// workingSetFile says which blocks of the memory its guest came to first when it was last woken: vm.Lazy. It is optional, and nothing depends on what
// it says.
const workingSetFile = "workingset.json"

// WorkingSet is the path of that file, which need not be there.
func (s Snapshot) WorkingSet() string { return filepath.Join(s.Dir, workingSetFile) }

// WorkingSet is where that file may be written.
func (g *Staging) WorkingSet() string { return filepath.Join(g.dir, workingSetFile) }
