package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/chunk"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// manifest is that of the snapshot's folder, with the chunks of each file.
type manifest struct {
	snapshot.Manifest
	Files map[string]file `json:"files"` // instead of the embedded one
	// WorkingSet are the chunks of the memory that the guest came to first when it was last woken. It is a hint.
	WorkingSet []int64 `json:"working_set,omitempty"`
}

type file struct {
	snapshot.File
	Digest string  `json:"digest"`
	Base   *base   `json:"base,omitempty"` // what `=` stands for
	Chunks entries `json:"chunks"`
}

// base is the disk of a template.
type base struct {
	Template string `json:"template"`
	Digest   string `json:"digest"`
}

// An entry says where the chunk at its place comes from: zeros, the base's chunk at the same place, or the name of a stored chunk.
type entry string

const (
	zeros  entry = "0"
	ofBase entry = "="
)

// entries are one for each chunk of a file.
type entries []entry

// maxChunks bounds what a manifest can make its reader hold: files of a tebibyte.
const maxChunks = 1 << 40 / snapshot.ChunkSize

// fileNames are the files of every snapshot.
var fileNames = []string{snapshot.VMStateFile, snapshot.MemoryFile, snapshot.RootfsFile}

// MarshalJSON writes runs of zeros and of the base's chunks as one.
func (l entries) MarshalJSON() ([]byte, error) {
	var runs []string
	for i := 0; i < len(l); {
		n := 1
		for short := l[i] == zeros || l[i] == ofBase; short && i+n < len(l) && l[i+n] == l[i]; {
			n++
		}
		text := string(l[i])
		if n > 1 {
			text += "*" + strconv.Itoa(n)
		}
		runs = append(runs, text)
		i += n
	}
	return json.Marshal(runs)
}

// UnmarshalJSON refuses what is no entry, and more than maxChunks.
func (l *entries) UnmarshalJSON(text []byte) error {
	var runs []string
	if err := json.Unmarshal(text, &runs); err != nil {
		return err
	}
	*l = nil
	for _, run := range runs {
		one, n, err := parseRun(run)
		if err != nil {
			return err
		}
		if n > maxChunks-len(*l) {
			return errors.New("more chunks than a file can have")
		}
		for range n {
			*l = append(*l, one)
		}
	}
	return nil
}

func parseRun(run string) (one entry, n int, err error) {
	text, count, repeated := strings.Cut(run, "*")
	one = entry(text)
	if one != zeros && one != ofBase {
		_, err = chunk.ParseName(run)
		return entry(run), 1, err
	}
	if !repeated {
		return one, 1, nil
	}
	n, err = strconv.Atoi(count)
	if err == nil && n < 1 {
		err = fmt.Errorf("a run of %d chunks", n)
	}
	return one, n, err
}

// sum returns the sum of an entry's chunk at place i; false where it is the base's and that is not known.
func (e entry) sum(i int, baseSums []chunk.Sum) (chunk.Sum, bool) {
	switch {
	case e == zeros:
		return snapshot.ZeroSum, true
	case e != ofBase:
		return chunk.Name(e).Sum(), true
	case i < len(baseSums):
		return baseSums[i], true
	}
	return chunk.Sum{}, false
}

// names are those of all stored chunks, each once.
func (m manifest) names() iter.Seq[chunk.Name] {
	return func(yield func(chunk.Name) bool) {
		seen := map[entry]bool{zeros: true, ofBase: true}
		for _, f := range m.Files {
			for _, e := range f.Chunks {
				if seen[e] {
					continue
				}
				seen[e] = true
				if !yield(chunk.Name(e)) {
					return
				}
			}
		}
	}
}

func namesIn(root []byte) (iter.Seq[chunk.Name], error) {
	m, err := decode(root)
	if err != nil {
		return nil, err
	}
	return m.names(), nil
}

// manifest reads and checks one. Errors: NotFound, Precondition.
func (a *Archive) manifest(ctx context.Context, key string) (manifest, error) {
	root, err := a.pool.Root(ctx, key)
	if err != nil {
		if models.CodeOf(err) == models.NotFound {
			return manifest{}, models.Errorf(models.NotFound, "there is no stored snapshot %s", key).WithCause(err)
		}
		return manifest{}, err
	}
	m, err := decode(root)
	if err != nil {
		return manifest{}, err
	}
	if Key(m.Manifest) != key {
		return manifest{}, damaged(key, "its manifest", fmt.Errorf("it is of %s", Key(m.Manifest)))
	}
	return m, nil
}

func decode(root []byte) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(root, &m); err != nil {
		return manifest{}, models.Errorf(models.Precondition, "the manifest of a stored snapshot is damaged").WithCause(err)
	}
	if m.Format != snapshot.Format {
		return manifest{}, models.Errorf(models.Precondition, "stored snapshot %s has the format %d, and this host knows %d", m.ID, m.Format, snapshot.Format)
	}
	for _, name := range fileNames {
		if err := m.Files[name].check(); err != nil {
			return manifest{}, damaged(m.ID, name, err)
		}
	}
	if len(m.Files) != len(fileNames) {
		return manifest{}, damaged(m.ID, "its manifest", errors.New("it has other files"))
	}
	return m, nil
}

func (f file) check() error {
	if f.Digest == "" {
		return errors.New("it has no digest")
	}
	if want := (f.Size + snapshot.ChunkSize - 1) / snapshot.ChunkSize; f.Size < 0 || int64(len(f.Chunks)) != want {
		return fmt.Errorf("it has %d bytes and %d chunks", f.Size, len(f.Chunks))
	}
	return nil
}

// checkDigests holds the lists of chunks against the digests of the files.
func (a *Archive) checkDigests(ctx context.Context, m manifest, template string) error {
	for name, f := range m.Files {
		if f.Base != nil && template == "" {
			continue
		}
		if _, err := a.fileSums(ctx, Key(m.Manifest), name, f, template); err != nil {
			return err
		}
	}
	return nil
}

// fileSums returns the sums of a file's chunks, whose digest is right.
func (a *Archive) fileSums(ctx context.Context, key, name string, f file, template string) ([]chunk.Sum, error) {
	var baseSums []chunk.Sum
	if f.Base != nil {
		var err error
		if template == "" {
			return nil, wrongBase(key, f.Base)
		}
		if baseSums, err = a.templateChunks(ctx, template); err != nil {
			return nil, wrongBase(key, f.Base).WithCause(err)
		}
	}
	sums := make([]chunk.Sum, len(f.Chunks))
	for i, e := range f.Chunks {
		sum, known := e.sum(i, baseSums)
		if !known && f.Base == nil {
			return nil, damaged(key, name, errors.New("a chunk is its base's, and it has none"))
		}
		sums[i] = sum
	}
	switch {
	case snapshot.DigestOf(sums, f.Size) == f.Digest:
		return sums, nil
	case f.Base != nil:
		return nil, wrongBase(key, f.Base)
	}
	return nil, damaged(key, name, errors.New("its chunks have another digest"))
}

func wrongBase(key string, b *base) *models.Error {
	return models.Errorf(models.Precondition, "stored snapshot %s needs the template %s with the digest %s, which is not on this host", key, b.Template, b.Digest)
}
