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

// TestEveryOrder stops an upload before each of its calls, then lets a collection go on to each of its, then the upload end, then the collection. The chunk
// that the upload needs is one that nobody names; in the overdue worlds the collection no longer waits for it.
func TestEveryOrder(t *testing.T) {
	warmCodec(t)
	plain := plainChunk(1)
	sum := sha256.Sum256(plain)
	orders, overdue := 0, 0
	for _, stop := range []time.Duration{0, leaseTime + time.Minute} {
		for uploadCalls, more := 0, true; more; uploadCalls++ {
			for collectCalls, moreToCollect := 0, true; moreToCollect && collectCalls < 40; collectCalls++ {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, 1)
					w.still = true
					frame, err := compress(plain)
					if err != nil {
						t.Fatal(err)
					}
					w.objects[nameOf(sum).key()] = stored{data: frame, modified: time.Now()}
					time.Sleep(time.Second)
					upload := newActor(w, func(p *Pool) error {
						u, err := p.Begin(t.Context())
						if err != nil {
							return err
						}
						name, _, err := u.Put(t.Context(), sum, plain)
						if err != nil {
							return err
						}
						return u.Commit(t.Context(), "root", []byte(name))
					})
					more = !upload.run(uploadCalls)
					time.Sleep(stop)
					collect := newActor(w, func(p *Pool) error { _, err := p.Collect(t.Context()); return err })
					moreToCollect = !collect.run(collectCalls)
					upload.run(toItsEnd)
					collect.run(toItsEnd)
					err = <-upload.done
					_, there := w.objects[rootPrefix+"root"]
					if w.broken != "" || err == nil && !there || errors.Is(err, ErrOverdue) && there { // another error may have come after the root
						t.Errorf("upload stopped at %d for %v, collection at %d: %v, root there %v, %s", uploadCalls, stop, collectCalls, err, there, w.broken)
					}
					if err != nil {
						overdue++
					}
					if err := <-collect.done; err != nil {
						t.Errorf("upload stopped at %d, collection at %d: %v", uploadCalls, collectCalls, err)
					}
					orders++
				})
			}
		}
	}
	t.Logf("%d orders, in %d of which the upload was overdue", orders, overdue)
	if overdue == 0 || overdue == orders {
		t.Error("these are not all")
	}
}
