// Package chunk is a pool of chunks in an object store that hosts share: each is stored once, under the sum of its content, and stays for as long
// as a root names it.
//
// A root is a small object, such as the manifest of a snapshot, that names chunks. Its chunks are stored in an Upload, which ends by putting the
// root. Collect removes the chunks that no root names. Uploads and collections go on at the same time, on any number of hosts, and any of them may be
// stopped, cut off or killed at any instant: a root that is in the store names only chunks that are. How: docs/adr/0013-the-collector.md.
package chunk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"iter"
	"regexp"
	"strings"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
	"github.com/wrenn-sandbox/wrenn/internal/object/diskcache"
)

// The keys of a pool.
const (
	chunkPrefix     = "chunks/"    // chunks/<first two digits>/<name>
	rootPrefix      = "manifests/" // what users know
	leasePrefix     = "leases/"    // one an upload, empty
	intentPrefix    = "intents/"   // one an upload that is about to put its root, which it holds
	condemnedPrefix = "condemned/" // one a collection: what it will delete
	clockKey        = "clock"      // put to learn the store's time
)

// The times of the protocol; docs/adr/0013-the-collector.md says what each has to be longer than. All are by the store's own clock.
const (
	leaseTime  = time.Hour                          // an upload that takes longer begins again, and finds what it has stored
	rootTime   = 30 * time.Minute                   // from the intent to the root
	sweepTime  = 2 * time.Hour                      // from the list of the condemned to the last delete
	recordTime = sweepTime + object.Lag + time.Hour // condemned and intents are kept this long
	callTime   = 5 * time.Minute                    // of what has to be undone although its caller has gone
	graceTime  = 24 * time.Hour                     // a chunk is not collected before: a broken upload may go on
)

// maxRoot is the longest root, plain and stored: some 900,000 chunks.
const maxRoot = 64 << 20

// Options make a Pool.
type Options struct {
	Objects object.Store
	Size    int // of a chunk, in bytes: all have the same
	// Names returns the chunks that a root names. An error stops a collection: what a root of an unknown form names is not known.
	Names func(root []byte) (iter.Seq[Name], error)
	Cache *diskcache.Cache // of chunks as they are stored; nil for none
	Grace time.Duration    // for how long a chunk that nobody names is kept; 0: a day
}

// Pool is a pool of chunks. It may be used by any number at the same time, and any number of pools may use the same objects.
type Pool struct{ Options }

// New returns a pool; it asks nothing of the store.
func New(o Options) *Pool {
	if o.Grace == 0 {
		o.Grace = graceTime
	}
	return &Pool{o}
}

// Sum is the SHA-256 of a plain chunk.
type Sum = [sha256.Size]byte

// Name is what a root calls a chunk, and is the last part of its key: the sum in 64 hexadecimal digits, and where that name was condemned when the chunk
// was stored, '.' and the name of the upload.
type Name string

var nameForm = regexp.MustCompile(`^[0-9a-f]{64}(\.[0-9a-z]{1,32})?$`)

// ParseName checks the form of a name.
func ParseName(s string) (Name, error) {
	if !nameForm.MatchString(s) {
		return "", models.Errorf(models.Precondition, "%q is no name of a chunk", s)
	}
	return Name(s), nil
}

func nameOf(sum Sum) Name { return Name(hex.EncodeToString(sum[:])) }

// Sum returns the sum of the chunk's plain content.
func (n Name) Sum() Sum {
	var sum Sum
	_, _ = hex.Decode(sum[:], []byte(n[:2*sha256.Size])) // its form was checked
	return sum
}

func (n Name) key() string { return chunkPrefix + string(n[:2]) + "/" + string(n) }

// Chunk returns the plain content of a chunk, from the cache where it is there. What it returns has the sum of its name. Errors: Precondition where the
// chunk is missing or damaged, and those of the store.
func (p *Pool) Chunk(ctx context.Context, name Name) ([]byte, error) {
	if p.Cache == nil {
		return p.Stored(ctx, name)
	}
	frame, err := p.Cache.Get(ctx, string(name), func(ctx context.Context) ([]byte, error) { return p.fetch(ctx, name) })
	if err != nil {
		return nil, err
	}
	plain, err := p.open(name, frame)
	if err == nil {
		return plain, nil
	}
	if err := p.Cache.Drop(string(name)); err != nil { // perhaps torn by a power cut: what counts is the store's
		return nil, err
	}
	return p.Stored(ctx, name)
}

// Stored is Chunk past the cache: what it finds wrong is wrong in the store.
func (p *Pool) Stored(ctx context.Context, name Name) ([]byte, error) {
	frame, err := p.fetch(ctx, name)
	if err != nil {
		return nil, err
	}
	return p.open(name, frame)
}

func (p *Pool) fetch(ctx context.Context, name Name) ([]byte, error) {
	frame, err := p.Objects.Get(ctx, name.key(), int64(p.Size)+maxOverhead)
	if err != nil && models.CodeOf(err) == models.NotFound {
		return nil, models.Errorf(models.Precondition, "chunk %s is missing from the object store", name).WithCause(err)
	}
	return frame, err
}

// open checks a stored chunk and returns its plain content.
func (p *Pool) open(name Name, frame []byte) ([]byte, error) {
	plain, err := decompress(frame, p.Size)
	switch {
	case err != nil:
		return nil, damaged(name, err)
	case len(plain) != p.Size:
		return nil, damaged(name, errors.New("it has another size"))
	case sha256.Sum256(plain) != name.Sum():
		return nil, damaged(name, errors.New("its content has another sum"))
	}
	return plain, nil
}

func damaged(name Name, cause error) error {
	return models.Errorf(models.Precondition, "chunk %s in the object store is damaged", name).WithCause(cause)
}

// Root returns a root as it was put. Errors: NotFound, Precondition where it is damaged, and those of the store.
func (p *Pool) Root(ctx context.Context, id string) ([]byte, error) {
	return p.root(ctx, rootPrefix+id)
}

func (p *Pool) root(ctx context.Context, key string) ([]byte, error) {
	frame, err := p.Objects.Get(ctx, key, maxRoot)
	if err != nil {
		return nil, err
	}
	root, err := decompress(frame, maxRoot)
	if err != nil {
		return nil, models.Errorf(models.Precondition, "%s in the object store is damaged", key).WithCause(err)
	}
	return root, nil
}

// Check fails where the store cannot be read.
func (p *Pool) Check(ctx context.Context) error {
	for _, err := range p.Objects.List(ctx, clockKey) {
		return err
	}
	return nil
}

// Roots returns the ids of all roots, in order; the last pair may be an error.
func (p *Pool) Roots(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for info, err := range p.Objects.List(ctx, rootPrefix) {
			if !yield(strings.TrimPrefix(info.Key, rootPrefix), err) {
				return
			}
		}
	}
}

// Remove removes a root, and succeeds if there is none. Its chunks are left to Collect. After that the id is used for nothing else: a call that was cut
// off may have its effect later.
func (p *Pool) Remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return p.Objects.Delete(ctx, rootPrefix+id)
}
