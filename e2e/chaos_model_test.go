package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// box is what is known of a sandbox by what was asked for and answered.
type box struct {
	id     string
	may    map[wrenn.State]bool // that it can be in when nothing is under way
	stormy bool                 // what was asked of it has come to no known end
	holds  cargo
	auto   bool // it sleeps by itself when nobody uses it
}

func newBox(id string, holds cargo) *box {
	return &box{id: id, may: map[wrenn.State]bool{wrenn.Running: true}, holds: holds}
}

// is says that it was brought into a state. What was asked of it before, and has come to no known end, may still come.
func (b *box) is(state wrenn.State) {
	if !b.stormy || state == wrenn.Stopped { // which is for good
		b.may = map[wrenn.State]bool{}
	}
	b.may[state] = true
}

// perhaps says that it may be in others, too.
func (b *box) perhaps(states ...wrenn.State) {
	b.stormy = true
	for _, state := range states {
		b.may[state] = true
	}
}

// cargo are what a sandbox holds: files, and a journal of the programs that were run, each of which writes a line.
type cargo struct {
	files map[string]string // their digests
	loose map[string]bool   // names and digests of what else may be there
	final map[string]bool   // names that must not be written again: a request for it may still be on its way
	ran   map[string]bool   // lines of programs; true: it has run, and once; false: once at most
}

func (c cargo) clone() cargo {
	return cargo{files: maps.Clone(c.files), loose: maps.Clone(c.loose), final: maps.Clone(c.final), ran: maps.Clone(c.ran)}
}

func noCargo() cargo {
	return cargo{files: map[string]string{}, loose: map[string]bool{}, final: map[string]bool{}, ran: map[string]bool{}}
}

// show prints what cargo are compared with.
const show = `cat ran 2>/dev/null; echo --; sha256sum f* 2>/dev/null; true`

// differs tells where what was shown is not what it must be.
func (c cargo) differs(shown string) (wrong []string) {
	lines, sums, ok := strings.Cut(shown, "--\n")
	if !ok {
		return []string{fmt.Sprintf("it shows %q", shown)}
	}
	ran := map[string]int{}
	for _, line := range strings.Fields(lines) {
		ran[line]++
		if _, known := c.ran[line]; !known || ran[line] > 1 {
			wrong = append(wrong, fmt.Sprintf("it ran %s %d times, known: %v", line, ran[line], known))
		}
	}
	for line, sure := range c.ran {
		if sure && ran[line] == 0 {
			wrong = append(wrong, fmt.Sprintf("it has forgotten that it ran %s", line))
		}
	}
	return append(wrong, c.filesDiffer(sums)...)
}

func (c cargo) filesDiffer(sums string) (wrong []string) {
	found := map[string]bool{}
	for line := range strings.Lines(sums) {
		fields := strings.Fields(line)
		if len(fields) != 2 {
			return []string{fmt.Sprintf("it shows the files %q", sums)}
		}
		sum, name := fields[0], fields[1]
		found[name] = true
		if want, sure := c.files[name]; sum != want && (sure || !c.loose[name+" "+sum]) {
			wrong = append(wrong, fmt.Sprintf("its file %s is %s, and must be %q", name, sum, want))
		}
	}
	for name := range c.files {
		if !found[name] {
			wrong = append(wrong, "it has lost its file "+name)
		}
	}
	return wrong
}

// outcome is what is known of a request.
type outcome int

const (
	done    outcome = iota
	refused         // its state does not allow it
	short           // there is no room
	unknown         // perhaps it was done, or will be
)

// outcomeOf tells what an error says. What no fault explains is wrong.
func outcomeOf(err error) (o outcome, wrong bool) {
	var coded *wrenn.Error
	switch {
	case err == nil:
		return done, false
	case !errors.As(err, &coded):
		return unknown, false
	case coded.Code == wrenn.Precondition:
		return refused, false
	case coded.Code == wrenn.Exhausted:
		return short, false
	case coded.Code == wrenn.Conflict || coded.Status >= http.StatusInternalServerError:
		return unknown, coded.Code == wrenn.Internal
	}
	return refused, true // wrong keys, wrong requests, and what is not there
}

const (
	askLimit = 100 * time.Second
	tries    = 4
)

// ask has a replica do something, and while it is not known whether it has the other one, with the same key. Some have no key, and are not asked again. It returns how often it had to
// ask again.
func (u *user) ask(what string, do func(context.Context, *wrenn.Client) error) (o outcome, try int) {
	key, attempts := rand.Text(), tries
	if u.random.IntN(5) == 0 {
		key, attempts = "", 1
	}
	replica := u.random.IntN(replicasOfCluster)
	for try = range attempts {
		client := u.x.clients[(replica+try)%replicasOfCluster]
		ctx, cancel := context.WithTimeout(context.Background(), askLimit)
		err := do(wrenn.WithIdempotencyKey(ctx, key), client)
		cancel()
		var wrong bool
		o, wrong = outcomeOf(err)
		u.x.journal.note("user %d: %s at replica %d: %s", u.number, what, (replica+try)%replicasOfCluster, said(err))
		if wrong {
			u.x.journal.note("WRONG: %s is answered %s", what, said(err))
			u.x.t.Errorf("round %d of seed %d: %s is answered %s", u.x.number, u.x.seed, what, said(err))
		}
		if o != unknown {
			break
		}
		time.Sleep(time.Duration(try) * 500 * time.Millisecond) // a replica starts
	}
	kind, _, _ := strings.Cut(what, " ")
	u.x.count(kind + []string{"", " refused", " short", " unknown"}[o])
	return o, try
}

func said(err error) string {
	var coded *wrenn.Error
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &coded):
		return fmt.Sprintf("%s (%d): %s [%s]", coded.Code, coded.Status, coded.Message, coded.RequestID)
	}
	return err.Error()
}

// allows tells whether a sandbox may be in a state. What lies on a host that is drained sleeps, and leaves.
func (x *chaos) allows(b *box, state wrenn.State) bool {
	if b.may[state] {
		return true
	}
	sleeps := b.auto || x.evicted.Load()
	switch state {
	case wrenn.Failed:
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.killed[b.id]
	case wrenn.Paused:
		return sleeps && b.may[wrenn.Running]
	case wrenn.Hibernated:
		return (b.auto || x.drained.Load()) && (b.may[wrenn.Paused] || sleeps && b.may[wrenn.Running])
	default:
		return false
	}
}

// mayHaveEnded tells whether a sandbox may be destroyed, or have failed.
func (x *chaos) mayHaveEnded(b *box) bool {
	return b.may[wrenn.Stopped] || x.allows(b, wrenn.Failed)
}

// states names those that a sandbox may be in.
func (b *box) states() []wrenn.State { return slices.Sorted(maps.Keys(b.may)) }
