package chunk

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/singleflight"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// ErrOverdue is the error of a Commit that came so late that a collector no longer waited for it. Nothing is wrong but that the upload has to
// begin again; what it stored is mostly there still.
var ErrOverdue = errors.New("the upload took longer than a collector waits")

// Upload stores the chunks of one root. It ends with Commit or Abort.
type Upload struct {
	pool      *Pool
	id        string
	condemned map[Name]bool
	puts      singleflight.Group // by name: a chunk that comes twice is stored once
}

// Begin begins an upload: a lease says that there is one, then what is condemned is read. In this order: a collector that does not see the lease has
// listed its condemned before.
func (p *Pool) Begin(ctx context.Context) (*Upload, error) {
	u := &Upload{pool: p, id: strings.ToLower(rand.Text())}
	if err := p.Objects.Put(ctx, leasePrefix+u.id, nil); err != nil {
		return nil, fmt.Errorf("begin an upload: %w", err)
	}
	condemned, err := p.condemned(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin an upload: %w", errors.Join(err, u.Abort(ctx)))
	}
	u.condemned = condemned
	return u, nil
}

// Root returns a root whose names may be used again, as far as Usable says so.
func (u *Upload) Root(ctx context.Context, id string) ([]byte, error) { return u.pool.Root(ctx, id) }

// Usable reports whether a name of a root that was read by u.Root may be in the root that u puts.
func (u *Upload) Usable(name Name) bool { return !u.condemned[name] }

// Put stores a chunk unless it is there, and returns its name and how many bytes were sent. sum is that of plain.
func (u *Upload) Put(ctx context.Context, sum Sum, plain []byte) (Name, int, error) {
	name := nameOf(sum)
	if u.condemned[name] { // it may go at any moment, and so may one that takes its place
		name += Name("." + u.id)
	}
	sent := 0 // by this call, and by no other that wants the same at the same time
	_, err, _ := u.puts.Do(string(name), func() (_ any, err error) {
		sent, err = u.put(ctx, name, plain)
		return nil, err
	})
	return name, sent, err
}

func (u *Upload) put(ctx context.Context, name Name, plain []byte) (sent int, err error) {
	_, err = u.pool.Objects.Stat(ctx, name.key())
	if err == nil {
		return 0, nil
	}
	if models.CodeOf(err) != models.NotFound {
		return 0, err
	}
	frame, err := compress(plain)
	if err != nil {
		return 0, err
	}
	return len(frame), u.pool.Objects.Put(ctx, name.key(), frame)
}

// Commit puts the root, whose chunks were all returned by Put or are Usable, and reads it back. Whatever the error, and wherever it is cut off, the root that
// is in the store then is whole, or is not there.
func (u *Upload) Commit(ctx context.Context, id string, root []byte) error {
	ctx, cancel := context.WithTimeout(ctx, rootTime)
	defer cancel()
	if err := u.intend(ctx, root); err != nil {
		return errors.Join(err, u.end(ctx, intentPrefix, leasePrefix))
	}
	if err := u.putRoot(ctx, id, root); err != nil {
		return errors.Join(err, u.end(ctx, leasePrefix)) // the root may still come: the intent holds its chunks until it cannot any more
	}
	_ = u.end(ctx, intentPrefix, leasePrefix) // what is left of them goes with the collector
	return nil
}

// intend puts the intent, then looks whether the lease is there still. If it is, whoever takes it away finds the intent.
func (u *Upload) intend(ctx context.Context, root []byte) error {
	frame, err := u.frame(root)
	if err != nil {
		return err
	}
	if err := u.pool.Objects.Put(ctx, intentPrefix+u.id, frame); err != nil {
		return err
	}
	_, err = u.pool.Objects.Stat(ctx, leasePrefix+u.id)
	if err != nil && models.CodeOf(err) == models.NotFound {
		return ErrOverdue
	}
	return err
}

func (u *Upload) frame(root []byte) ([]byte, error) {
	if len(root) > maxRoot {
		return nil, models.Errorf(models.Exhausted, "a manifest has more than %d bytes", maxRoot)
	}
	return compress(root)
}

func (u *Upload) putRoot(ctx context.Context, id string, root []byte) error {
	frame, err := u.frame(root)
	if err != nil {
		return err
	}
	if err := u.pool.Objects.Put(ctx, rootPrefix+id, frame); err != nil {
		return err
	}
	stored, err := u.pool.Root(ctx, id)
	if err == nil && !bytes.Equal(stored, root) {
		err = models.Errorf(models.Conflict, "%s is being uploaded twice", id)
	}
	return err
}

// Abort gives the upload up. What it stored is found by the next that needs it, and else collected.
func (u *Upload) Abort(ctx context.Context) error { return u.end(ctx, leasePrefix) }

// end removes what the upload put under its own name, in this order, also when its caller has gone.
func (u *Upload) end(ctx context.Context, prefixes ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	for _, prefix := range prefixes {
		if err := u.pool.Objects.Delete(ctx, prefix+u.id); err != nil {
			return err
		}
	}
	return nil
}
