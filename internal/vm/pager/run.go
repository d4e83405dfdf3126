package pager

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm/uffd"
)

// workers is how many blocks are brought at once beside those that a guest waits for: they wait for the network more than for a processor.
const workers = 8

// The pause before a block is asked for again begins with the first and doubles up to the last.
const firstPause, lastPause = 50 * time.Millisecond, 5 * time.Second

const pagesPerBlock = BlockSize / uffd.PageSize

// pager is one that works.
type pager struct {
	Order
	file  *file
	guest *guest // set when the VMM has come
	seen  *recorder
	log   *slog.Logger
	hurry <-chan struct{} // closed when somebody waits for the memory to be whole

	mu      sync.Mutex
	given   []bool         // which blocks are in the guest's memory, but for pages that were given back; guarded by mu
	asked   map[int64]bool // which are on their way since the guest waits for them; guarded by mu
	waiting int            // how many of them have not come; guarded by mu
	calm    chan struct{}  // closed while that is none; guarded by mu
}

func newPager(o Order, source Source, hurry <-chan struct{}, log *slog.Logger) (*pager, error) {
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	f, err := openFile(o.Memory, o.Size, source)
	if err != nil {
		return nil, err
	}
	return &pager{Order: o, file: f, seen: newRecorder(), log: log, hurry: hurry, given: make([]bool, f.blocks()), asked: map[int64]bool{}, calm: closed()}, nil
}

// run returns when the memory is whole, or why it cannot be.
func (p *pager) run(ctx context.Context, l *net.UnixListener) error {
	defer p.file.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.bringAll(ctx) }) // before the VMM comes
	group.Go(func() error {
		guest, err := receive(ctx, l, p.Size)
		if err != nil {
			return fmt.Errorf("receive the memory: %w", err)
		}
		p.guest = guest
		return p.serve(ctx)
	})
	return group.Wait()
}

// serve gives the guest all of its memory, and first what it waits for.
func (p *pager) serve(ctx context.Context) error {
	defer p.guest.file.Close()
	stop := context.AfterFunc(ctx, p.guest.stop)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.answerAll(ctx, group) })
	group.Go(func() error {
		defer p.guest.stop()
		if err := p.giveAll(ctx); err != nil {
			return err
		}
		return p.guest.leave()
	})
	return group.Wait()
}

// answerAll answers the guest until it is stopped. Each block that it waits for is brought by itself: one that is slow holds up no other.
func (p *pager) answerAll(ctx context.Context, group *errgroup.Group) error {
	for {
		pages, err := p.guest.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, page := range pages {
			block := int64(page / pagesPerBlock)
			switch {
			case p.guest.isGone(page) || p.isGiven(block):
				group.Go(func() error { return p.guest.zero(page) }) // which may have to wait for what is read here
			case p.ask(block):
				group.Go(func() error { return p.answer(ctx, block) })
			}
		}
	}
}

// answer brings a block in time, and gives it to the guest.
func (p *pager) answer(ctx context.Context, block int64) error {
	defer p.come()
	p.seen.note(block)
	limited, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	if err := p.insist(limited, block); err != nil {
		if ctx.Err() == nil && limited.Err() != nil {
			err = models.Errorf(models.Unavailable, "a part of its memory did not arrive within %v", p.Patience).WithCause(err)
		}
		return err
	}
	return p.give(block)
}

// insist asks for a block until it is here. It gives up when ctx ends, and where the source says that it is of no use.
func (p *pager) insist(ctx context.Context, block int64) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := p.file.bring(ctx, block, p.Patience/3)
		if err == nil || models.CodeOf(err) == models.Precondition {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// bringAll brings the working set, and then the rest, into the file.
func (p *pager) bringAll(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for block := range p.plan() {
		if p.awaitCalm(ctx); ctx.Err() != nil {
			break
		}
		group.Go(func() error { return p.insist(ctx, block) })
	}
	return group.Wait()
}

// plan is the order in which blocks are brought that nobody waits for. What makes no sense in the working set is left out.
func (p *pager) plan() iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for _, block := range p.First {
			if block >= 0 && block < p.file.blocks() && !yield(block) {
				return
			}
		}
		for block := range p.file.blocks() {
			if !yield(block) {
				return
			}
		}
	}
}

// giveAll gives the guest what it has not come to, when it has been seen what it comes to first.
func (p *pager) giveAll(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.hurry:
	case <-time.After(p.Window):
	}
	p.record()
	for block := range p.file.blocks() {
		if err := p.insist(ctx, block); err != nil {
			return err
		}
		if p.isGiven(block) {
			continue
		}
		if err := p.giveData(block); err != nil {
			return err
		}
	}
	return nil
}

// record keeps what the guest came to. That it cannot costs time when the guest is woken next, and nothing else.
func (p *pager) record() {
	if p.Record == "" {
		return
	}
	if err := WriteWorkingSet(p.Record, p.seen.blocks()); err != nil {
		p.log.Warn("the working set is not recorded", "error", err)
	}
}

// give puts a block that is here into the guest's memory.
func (p *pager) give(block int64) error {
	data, err := p.file.read(block)
	if err != nil {
		return err
	}
	return p.put(block, data)
}

// giveData is give for a block that nobody waits for: one of zeros is what the kernel gives when the memory is left to it.
func (p *pager) giveData(block int64) error {
	data, err := p.file.read(block)
	if err != nil || data == nil {
		return err
	}
	return p.put(block, data)
}

func (p *pager) put(block int64, data []byte) error {
	if err := p.guest.put(uint64(block)*BlockSize, BlockSize, data); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.given[block] = true
	return nil
}

func (p *pager) isGiven(block int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.given[block]
}

// ask reports whether the guest waits for a block for the first time. What it waits for then ends with come.
func (p *pager) ask(block int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked[block] {
		return false
	}
	p.asked[block] = true
	if p.waiting++; p.waiting == 1 {
		p.calm = make(chan struct{})
	}
	return true
}

func (p *pager) come() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting--; p.waiting == 0 {
		close(p.calm)
	}
}

// awaitCalm returns when the guest waits for nothing: what it waits for has the network to itself.
func (p *pager) awaitCalm(ctx context.Context) {
	p.mu.Lock()
	calm := p.calm
	p.mu.Unlock()
	select {
	case <-calm:
	case <-ctx.Done():
	}
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
