package chunk

import (
	"crypto/sha256"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// actor does one thing, call by call, when it is its turn.
type actor struct {
	*host
	pool *Pool
	done chan error
}

func newActor(w *world, do func(*Pool) error) *actor {
	a := &actor{host: &host{world: w, turn: make(chan struct{})}, done: make(chan error, 1)}
	a.pool = New(Options{Objects: a.host, Size: testSize, Names: testNames, Grace: 1})
	go func() { a.done <- do(a.pool) }()
	return a
}

// run lets it make n calls, or as many as it does until it has ended or waits for somebody for five minutes. It reports whether it has ended.
func (a *actor) run(n int) (ended bool) {
	for waited := 0; n > 0 && waited < 300; {
		synctest.Wait()
		select {
		case a.turn <- struct{}{}:
			n--
		default:
			if len(a.done) > 0 {
				return true
			}
			time.Sleep(time.Second)
			waited++
		}
	}
	synctest.Wait()
	return len(a.done) > 0
}

const toItsEnd = 1 << 10

// pace is how an upload goes on until it is stopped.
type pace struct {
	name        string
	slow, stops time.Duration // before its intent; where it is stopped
}

// enoughCalls is more than a collection makes that does not wait; one that does asks again and again.
const enoughCalls = 40

const overdueTime = leaseTime + time.Minute

// TestEveryOrder stops an upload before each of its calls, then lets a collection go on to each of its, then the upload end, then the collection. The chunk
// that the upload needs is one that nobody names. Where the upload is overdue, the collection no longer waits for it.
func TestEveryOrder(t *testing.T) {
	warmCodec(t)
	orders, overdue := 0, 0
	for _, p := range []pace{{name: "quick"}, {name: "slow", slow: overdueTime}, {name: "stopped", stops: overdueTime}} {
		for uploadCalls, more := 0, true; more; uploadCalls++ {
			for collectCalls, moreToCollect := 0, true; moreToCollect && collectCalls < enoughCalls; collectCalls++ {
				synctest.Test(t, func(t *testing.T) {
					o := order{newWorld(t, 1), p, uploadCalls, collectCalls}
					var late bool
					more, moreToCollect, late = o.try()
					orders++
					if late {
						overdue++
					}
				})
			}
		}
	}
	t.Logf("%d orders, in %d of which the upload was overdue", orders, overdue)
	if overdue == 0 || overdue == orders {
		t.Error("these are not all")
	}
}

// order is one of them.
type order struct {
	*world
	pace
	uploadCalls, collectCalls int
}

// try reports whether either did not end within its calls, and whether the upload failed.
func (o *order) try() (moreToUpload, moreToCollect, failed bool) {
	o.still = true
	plain := plainChunk(1)
	frame, err := compress(plain)
	if err != nil {
		o.t.Fatal(err)
	}
	o.objects[nameOf(sha256.Sum256(plain)).key()] = stored{data: frame, modified: time.Now()}
	time.Sleep(time.Second)
	upload := newActor(o.world, func(p *Pool) error { return uploadOne(o.t, p, plain) })
	const callsToIntent = 3 // the lease, the list of condemned, the look for the chunk
	ended := upload.run(min(o.uploadCalls, callsToIntent))
	time.Sleep(o.slow)
	ended = ended || upload.run(o.uploadCalls-callsToIntent)
	time.Sleep(o.stops)
	collect := newActor(o.world, func(p *Pool) error { _, err := p.Collect(o.t.Context()); return err })
	collected := collect.run(o.collectCalls)
	upload.run(toItsEnd)
	collect.run(toItsEnd)
	err = <-upload.done
	o.judge(err, <-collect.done)
	return !ended, !collected, err != nil
}

func uploadOne(t *testing.T, p *Pool, plain []byte) error {
	u, err := p.Begin(t.Context())
	if err != nil {
		return err
	}
	name, _, err := u.Put(t.Context(), sha256.Sum256(plain), plain)
	if err != nil {
		return err
	}
	return u.Commit(t.Context(), "root", []byte(name))
}

// judge: a root that was put is whole, one whose upload was overdue was not put. Other errors may come after the root.
func (o *order) judge(uploaded, collected error) {
	_, there := o.objects[rootPrefix+"root"]
	if o.broken != "" || uploaded == nil && !there || errors.Is(uploaded, ErrOverdue) && there || collected != nil {
		o.t.Errorf("%s upload stopped at %d, collection at %d: %v, %v; root there %v; %s", o.name, o.uploadCalls, o.collectCalls, uploaded, collected, there, o.broken)
	}
}
