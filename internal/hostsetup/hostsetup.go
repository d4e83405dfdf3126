// Package hostsetup prepares a machine for running sandboxes, says whether it is prepared, and takes back what it did.
//
// The table in items.go holds everything: what is set, why, and for whom it is optional. `host-agent setup` applies it,
// `host-agent setup --check` and `wrenn doctor` read it and change nothing. Each item is a list of changes, and each change
// sets one thing (a file, a knob of the kernel, a module, a folder, an account, a mount) that can be read and set back.
//
// Before a change is made, what was there is written to the record (/etc/wrenn/host-setup.json), durably. So a
// set-up that was killed is completed by the next one, and Undo restores the machine as it was before the first, in reverse
// order. It leaves alone what somebody else has changed since, and says so.
//
// What a machine does not allow, as containers do, is reported and stops nothing else.
package hostsetup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Options say what the machine is prepared for.
type Options struct {
	Data      string   // data folder of the host agent, absolute
	Volume    bool     // whether a volume with reflinks is made where the file system has none
	VolumeGiB int      // its size; 0: four fifths of what is free
	With      []string // names of optional items that are wanted
	// SeccompFilter is the agent's setting of this name.
	SeccompFilter string
}

// Result is what was found of an item, or what became of it.
type Result struct {
	Name     string
	What     string
	Why      string
	Optional string // for whom an optional item is, and what it costs; empty for the others
	Skipped  string // why it does not concern this machine; then nothing below is set
	Found    string // of an item that setup only looks at
	Steps    []Step // what is not as it should be; of Apply and Undo: what was done
	Notes    []string
	Fix      string // what a person must do, where setup cannot
	Err      error  // why the item could not be judged at all
}

// Step is one change.
type Step struct {
	What          string // such as "sysctl net.ipv4.ip_forward"
	Before, After string // in words
	Left          string // why Undo left it as it is
	Err           error  // why it could not be made
}

// Good reports that nothing is to be done, or that all of it was.
func (r Result) Good() bool {
	failed := slices.ContainsFunc(r.Steps, func(s Step) bool { return s.Err != nil })
	return r.Err == nil && r.Fix == "" && !failed
}

// Prepared reports that Check found nothing that Apply would do. What a person should do does not count.
func Prepared(results []Result) bool {
	return !slices.ContainsFunc(results, func(r Result) bool { return r.Err != nil || len(r.Steps) > 0 })
}

// Setup is a machine that is prepared.
type Setup struct {
	machine *machine
	items   []item
}

// Open returns the set-up of this machine. The error is Invalid for an optional item that does not exist.
func Open(opts Options) (*Setup, error) { return open(thisMachine(opts)) }

func open(m *machine) (*Setup, error) {
	s := &Setup{machine: m, items: items()}
	for _, name := range m.With {
		known := slices.ContainsFunc(s.items, func(i item) bool { return i.name == name && i.optional != "" })
		if !known {
			return nil, models.Errorf(models.Invalid, "there is no optional item %q", name).WithHint("known: %s", strings.Join(s.optional(), ", "))
		}
	}
	return s, nil
}

func (s *Setup) optional() []string {
	var names []string
	for _, i := range s.items {
		if i.optional != "" {
			names = append(names, i.name)
		}
	}
	return names
}

// Check looks at every item and changes nothing. Optional items that nobody asked for, now or when the machine was
// prepared, are Skipped.
func (s *Setup) Check(ctx context.Context) ([]Result, error) {
	record, err := readRecord(s.machine)
	if err != nil {
		return nil, err
	}
	var all []Result
	for _, i := range s.items {
		result, differing := s.look(ctx, i, record)
		for _, c := range differing {
			result.Steps = append(result.Steps, c.step())
		}
		all = append(all, result)
	}
	return all, nil
}

// look examines an item, and returns its changes that have not been made, each with what is there now.
func (s *Setup) look(ctx context.Context, i item, record *record) (Result, []change) {
	r := Result{Name: i.name, What: i.what, Why: i.why, Optional: i.optional}
	if i.optional != "" && !slices.Contains(s.machine.With, i.name) && !record.has(i.name) {
		r.Skipped = "optional: --with " + i.name
		return r, nil
	}
	if i.advice != nil {
		r.Found, r.Fix = i.advice(s.machine)
		return r, nil
	}
	wanted, skip, err := i.changes(s.machine)
	r.Skipped, r.Err = skip, err
	if skip != "" || err != nil {
		return r, nil
	}
	differing, notes, err := s.compare(ctx, wanted)
	r.Notes, r.Err = notes, err
	return r, differing
}

// compare returns those of the wanted changes that the machine differs from.
func (s *Setup) compare(ctx context.Context, wanted []change) (differing []change, notes []string, err error) {
	for _, c := range wanted {
		if c.now, err = c.read(ctx, s.machine); err != nil {
			return differing, notes, fmt.Errorf("look at %s: %w", c.name(), err)
		}
		switch {
		case c.ifPresent && !c.now.Present:
			notes = append(notes, "this kernel has no "+c.target)
		case !c.satisfied():
			differing = append(differing, c)
		}
	}
	return differing, notes, nil
}
