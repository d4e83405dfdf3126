package hostsetup

import (
	"context"
	"fmt"
	"io/fs"
)

// state is what one thing of the machine is like, as far as set-up is concerned. The zero value: it is not there. Which fields
// count is the kind's matter.
type state struct {
	Present bool        `json:"present"`
	Text    string      `json:"text,omitempty"` // content, value, options, group
	Mode    fs.FileMode `json:"mode,omitempty"` // permissions
	UID     int         `json:"uid,omitempty"`
	GID     int         `json:"gid,omitempty"`
}

// kind knows how to read and set one sort of thing.
type kind interface {
	// read returns the state of the target; that it is not there is no error.
	read(ctx context.Context, m *machine, target string) (state, error)
	// write brings the target into a state. It may be repeated.
	write(ctx context.Context, m *machine, target string, to state) error
	// words describes a state to a person.
	words(s state) string
}

// kinds by the names that stand in the record, which must keep their meaning.
var kinds = map[string]kind{
	"file": file{}, "link": link{}, "folder": folder{}, "line": line{}, "device": device{},
	"knob": knob{}, "module": module{}, "mount": mount{}, "volume": volume{},
	"group": account{"group", "/etc/group"}, "user": account{"user", "/etc/passwd"},
}

// change is one thing that an item sets.
type change struct {
	kind, target string
	want         state
	enough       func(now state) bool // what else will do; nil: nothing else
	ifPresent    bool                 // a knob that not every kernel has
	now          state                // as compare found it
}

func (c change) read(ctx context.Context, m *machine) (state, error) {
	return kinds[c.kind].read(ctx, m, c.target)
}

func (c change) write(ctx context.Context, m *machine, to state) error {
	return kinds[c.kind].write(ctx, m, c.target, to)
}

func (c change) satisfied() bool {
	return c.now == c.want || c.enough != nil && c.enough(c.now)
}

func (c change) name() string { return fmt.Sprintf("%s %s", c.kind, c.target) }

func (c change) step() Step {
	return Step{What: c.name(), Before: kinds[c.kind].words(c.now), After: kinds[c.kind].words(c.want)}
}

// presence is how the kinds that are either there or not describe themselves.
func presence(s state) string {
	if s.Present {
		return "present"
	}
	return "absent"
}
