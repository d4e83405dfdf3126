package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

const (
	mostBoxes, mostKept = 3, 1 // of a user
	mostOfFile          = 256 << 10
)

// user does one thing after the other.
type user struct {
	x       *chaos
	number  int
	random  *rand.Rand
	boxes   []*box
	kept    []kept
	named   int // sandboxes and lines so far, each of which has a name of its own
	unknown int // sandboxes that may have been made beside those
	unsure  int // snapshots that may be there beside those
}

// kept is a named snapshot.
type kept struct {
	id    string
	holds cargo
	auto  bool // so are what is made from it
}

// work does what comes, as long as ctx.
func (u *user) work(ctx context.Context) {
	for ctx.Err() == nil {
		if len(u.boxes) == 0 || len(u.boxes) < mostBoxes && u.random.IntN(5) == 0 {
			u.make()
			continue
		}
		ops := u.ops()
		ops[u.random.IntN(len(ops))](u.boxes[u.random.IntN(len(u.boxes))])
		u.boxes = slices.DeleteFunc(u.boxes, func(b *box) bool { return b.may[wrenn.Stopped] && !b.stormy })
	}
}

// ops are what is done to a sandbox, some more often than others.
func (u *user) ops() []func(*box) {
	return []func(*box){
		u.write, u.write, u.write, u.read, u.read, u.run, u.run, u.run, u.pause, u.pause, u.resume, u.resume, u.hibernate, u.hibernate, u.fork, u.keep, u.tend, u.destroy,
	}
}

// name returns one that nobody else has.
func (u *user) name() string {
	u.named++
	return fmt.Sprintf("u%d-%d", u.number, u.named)
}

// take takes a sandbox that was made, whose id is new.
func (u *user) take(sb *wrenn.Sandbox, holds cargo, auto bool) {
	b := newBox(sb.ID, holds)
	b.auto = auto
	u.boxes = append(u.boxes, b)
	u.x.mu.Lock()
	defer u.x.mu.Unlock()
	if u.x.ids[sb.ID] {
		u.x.t.Errorf("the id %s was given twice", sb.ID)
	}
	u.x.ids[sb.ID] = true
}

// make makes a sandbox, from a snapshot if there is one.
func (u *user) make() {
	req, holds, auto := wrenn.CreateSandboxRequest{Name: u.name(), Template: "minimal", MemoryMiB: memoryOfChaos}, noCargo(), false
	what := "create " + req.Name
	if len(u.kept) > 0 && u.random.IntN(2) == 0 {
		from := u.kept[u.random.IntN(len(u.kept))]
		req, holds, what = wrenn.CreateSandboxRequest{Name: req.Name, Snapshot: from.id}, from.holds.clone(), "create_from "+from.id+" "+req.Name
		auto = from.auto
	}
	if u.random.IntN(3) == 0 {
		req.Wait = 5 * time.Second
	}
	var sb *wrenn.Sandbox
	o, again := u.ask(what, func(ctx context.Context, c *wrenn.Client) (err error) {
		sb, err = c.CreateSandbox(ctx, req)
		return err
	})
	switch {
	case o == done:
		u.x.journal.note("user %d: %s is %s", u.number, req.Name, sb.ID)
		u.take(sb, holds, auto)
	case o == unknown || again > 0:
		u.unknown++
	}
}

// write writes a file, a new one or one that is there.
func (u *user) write(b *box) {
	name := fmt.Sprintf("f%d", len(b.holds.files))
	if b.holds.final[name] || u.random.IntN(4) == 0 {
		name = "f" + u.name()
	}
	text := strings.Repeat(fmt.Sprintln(u.random.Uint64()), 1+u.random.IntN(mostOfFile/20))
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	o, again := u.ask("write "+b.id+" "+name, func(ctx context.Context, c *wrenn.Client) error {
		_, err := c.WriteFile(ctx, b.id, "/home/user/"+name, strings.NewReader(text))
		return err
	})
	if again > 0 || o == unknown {
		b.holds.final[name] = true
	}
	switch {
	case o == done:
		b.holds.files[name] = sum
	case o == unknown || again > 0:
		if before, had := b.holds.files[name]; had {
			b.holds.loose[name+" "+before] = true
			delete(b.holds.files, name)
		}
		b.holds.loose[name+" "+sum] = true
	}
	u.used(b, o)
}

// used says that a request needed the guest, which woke it. One of a sandbox that has not ended is held until it is awake, and not refused.
func (u *user) used(b *box, o outcome) {
	switch o {
	case done:
		b.is(wrenn.Running)
	case unknown:
		b.perhaps(wrenn.Running)
	case refused, short:
		if b.may[wrenn.Hibernated] {
			b.may[wrenn.Paused] = true // fetched, and no more
		}
		if o == refused && !u.x.mayHaveEnded(b) {
			u.x.fail([]string{fmt.Sprintf("a request for the guest of %s is refused, which may be %v", b.id, b.states())})
		}
	}
}

// read reads a file that must be there.
func (u *user) read(b *box) {
	for name, want := range b.holds.files {
		var sum string
		o, _ := u.ask("read "+b.id+" "+name, func(ctx context.Context, c *wrenn.Client) error {
			f, err := c.ReadFile(ctx, b.id, "/home/user/"+name)
			if err != nil {
				return err
			}
			defer f.Close()
			hash := sha256.New()
			_, err = io.Copy(hash, f)
			sum = fmt.Sprintf("%x", hash.Sum(nil))
			return err
		})
		if o == done && sum != want {
			u.x.fail([]string{fmt.Sprintf("the file %s of %s is read as %s, and must be %s", name, b.id, sum, want)})
		}
		u.used(b, o)
		return
	}
}

// run runs a program that leaves a line: once, however often it is asked for with the same key.
func (u *user) run(b *box) {
	line := u.name()
	o, again := u.ask("run "+b.id+" "+line, func(ctx context.Context, c *wrenn.Client) error {
		result, err := c.Exec(ctx, b.id, wrenn.ExecRequest{Shell: "echo " + line + " >> ran"})
		if err == nil && result.ExitCode != 0 {
			u.x.fail([]string{fmt.Sprintf("a program of %s ended with %d: %s", b.id, result.ExitCode, result.Stderr)})
		}
		return err
	})
	if o == done || o == unknown || again > 0 {
		b.holds.ran[line] = o == done
	}
	u.used(b, o)
}

// change asks for what brings a sandbox into a state, and where it fails may leave it in it or in others.
func (u *user) change(what string, b *box, do func(*wrenn.Client, context.Context, string) (*wrenn.Sandbox, error), to wrenn.State, others ...wrenn.State) {
	o, again := u.ask(what+" "+b.id, func(ctx context.Context, c *wrenn.Client) error {
		sb, err := do(c, ctx, b.id)
		if err == nil && sb.State != to {
			u.x.fail([]string{fmt.Sprintf("%s of %s is answered by %s", what, b.id, sb.State)})
		}
		return err
	})
	switch {
	case o == done:
		b.is(to)
	case o == unknown || again > 0:
		b.perhaps(append(others, to)...)
	default: // it may have come a part of the way
		for _, state := range others {
			b.may[state] = true
		}
	}
}

func (u *user) pause(b *box) { u.change("pause", b, (*wrenn.Client).PauseSandbox, wrenn.Paused) }
func (u *user) resume(b *box) {
	u.change("resume", b, (*wrenn.Client).ResumeSandbox, wrenn.Running, wrenn.Paused) // fetched, and no room to wake
}

func (u *user) hibernate(b *box) {
	u.change("hibernate", b, (*wrenn.Client).HibernateSandbox, wrenn.Hibernated, wrenn.Paused, wrenn.Running)
}

func (u *user) destroy(b *box) {
	u.change("destroy", b, (*wrenn.Client).DestroySandbox, wrenn.Stopped)
}

func (u *user) fork(b *box) {
	if len(u.boxes) >= mostBoxes {
		return
	}
	holds := b.holds.clone()
	var children []wrenn.Sandbox
	o, again := u.ask("fork "+b.id, func(ctx context.Context, c *wrenn.Client) (err error) {
		children, err = c.ForkSandbox(ctx, b.id, wrenn.ForkRequest{Count: 1})
		return err
	})
	switch {
	case o == done && len(children) == 1:
		u.x.journal.note("user %d: the child of %s is %s", u.number, b.id, children[0].ID)
		u.take(&children[0], holds, b.auto)
	case o == done:
		u.x.fail([]string{fmt.Sprintf("a fork of %s has the children %+v", b.id, children)})
	case o == unknown || again > 0:
		u.unknown++
	}
}

// keep keeps a named snapshot, or deletes one.
func (u *user) keep(b *box) {
	if len(u.kept) >= mostKept {
		s := u.kept[0]
		before := 0
		o, _ := u.ask("delete_snapshot "+s.id, func(ctx context.Context, c *wrenn.Client) error {
			err := c.DeleteSnapshot(ctx, s.id)
			if before++; before > 1 && wrenn.CodeOf(err) == wrenn.NotFound { // the one before has deleted it since
				return nil
			}
			return err
		})
		if o == unknown {
			u.unsure++
		}
		if o == done || o == unknown {
			u.kept = u.kept[1:]
		}
		return
	}
	holds, name := b.holds.clone(), u.name()
	var made *wrenn.Snapshot
	o, again := u.ask("keep "+b.id, func(ctx context.Context, c *wrenn.Client) (err error) {
		made, err = c.CreateSnapshot(ctx, b.id, name)
		return err
	})
	switch {
	case o == done:
		u.x.journal.note("user %d: the snapshot of %s is %s", u.number, b.id, made.ID)
		u.kept = append(u.kept, kept{made.ID, holds, b.auto})
	case o == unknown || again > 0:
		u.unsure++
	}
}

// tend has a sandbox sleep by itself, or not any more.
func (u *user) tend(b *box) {
	after := 5 * time.Second
	if b.auto {
		after = 0
	}
	b.auto = true // from the first try on
	o, again := u.ask("tend "+b.id+" "+after.String(), func(ctx context.Context, c *wrenn.Client) error {
		_, err := c.SetLifecycle(ctx, b.id, wrenn.LifecycleChange{AutoPauseAfter: &after, AutoHibernateAfter: &after})
		return err
	})
	if o == done && again == 0 && after == 0 && !b.stormy {
		b.auto = false
	}
}
