package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Names of the files of an image, in the folder that Import reads as in the store.
const (
	RootfsName   = "rootfs.ext4"
	ManifestName = "manifest.json"
)

// currentName is the link that says which digest of a template new sandboxes get.
const currentName = "current"

// Manifest describes an image; it is its manifest.json.
type Manifest struct {
	Name             string `json:"name"`
	Digest           string `json:"digest"` // content hash; two images with the same digest are the same
	Description      string `json:"description"`
	DiskMiB          int    `json:"disk_mib"` // the exact size of rootfs.ext4
	DefaultVCPUs     int    `json:"default_vcpus"`
	DefaultMemoryMiB int    `json:"default_memory_mib"`
	DefaultUser      string `json:"default_user"`
	EnvdVersion      string `json:"envd_version"`
	KernelDigest     string `json:"kernel_digest"`
	BuiltAt          string `json:"built_at"` // RFC 3339
}

// Template is an image in the store.
type Template struct {
	Manifest
	Rootfs string // path of the image; never to be written to
}

var (
	// nameForm admits no separator and no leading dot: a template's name is safe in a path.
	nameForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	digestForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9:+._-]{7,127}$`)
)

// Templates lists the store's templates in the order of their names, each in its current
// version. One that cannot be read is left out; the error names it, beside the list of the others.
func (s *Store) Templates() ([]Template, error) {
	names, err := s.names()
	var list []Template
	for _, name := range names {
		t, loadErr := loadImage(filepath.Join(s.images(), name, currentName))
		if loadErr != nil {
			err = errors.Join(err, fmt.Errorf("template %s: %w", name, loadErr))
			continue
		}
		list = append(list, t)
	}
	return list, err
}

// Template returns the current version of a template. A name that the store does not
// have, of whatever form, is a NotFound error whose hint lists those it has.
func (s *Store) Template(name string) (Template, error) {
	if !nameForm.MatchString(name) {
		return Template{}, s.unknown(name)
	}
	t, err := loadImage(filepath.Join(s.images(), name, currentName))
	if errors.Is(err, fs.ErrNotExist) {
		return Template{}, s.unknown(name)
	}
	return t, err
}

// Version returns a template as it was, or is, with this digest: a NotFound error where the store does not have it any more.
func (s *Store) Version(name, digest string) (Template, error) {
	missing := models.Errorf(models.NotFound, "the template %q with the digest %s is not on this host", name, digest)
	if !nameForm.MatchString(name) || !digestForm.MatchString(digest) {
		return Template{}, missing
	}
	t, err := loadImage(filepath.Join(s.images(), name, Manifest{Digest: digest}.folder()))
	if errors.Is(err, fs.ErrNotExist) {
		return Template{}, missing
	}
	return t, err
}

func (s *Store) unknown(name string) error {
	err := models.Errorf(models.NotFound, "there is no template %q", name)
	names, listErr := s.names()
	switch {
	case listErr != nil:
		return err.WithCause(listErr)
	case len(names) == 0:
		return err.WithHint("this host has no templates yet; `make images` builds them")
	}
	return err.WithHint("known templates: %s", strings.Join(names, ", "))
}

// names lists the templates that have a current version.
func (s *Store) names() ([]string, error) {
	links, err := filepath.Glob(filepath.Join(s.images(), "*", currentName))
	var names []string
	for _, link := range links {
		if name := filepath.Base(filepath.Dir(link)); nameForm.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, err
}

// Prune removes old versions of templates whose digest is not in inUse. Current versions stay.
func (s *Store) Prune(ctx context.Context, inUse map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	manifests, err := filepath.Glob(filepath.Join(s.images(), "*", "*", ManifestName))
	for _, path := range manifests {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err = errors.Join(err, s.pruneImage(filepath.Dir(path), inUse))
	}
	return err
}

func (s *Store) pruneImage(dir string, inUse map[string]bool) error {
	var m Manifest
	if err := durable.ReadJSON(filepath.Join(dir, ManifestName), &m); err != nil {
		return err
	}
	current, err := os.Readlink(filepath.Join(filepath.Dir(dir), currentName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	base := filepath.Base(dir)
	if base == currentName || base == current || inUse[m.Digest] {
		return nil
	}
	return durable.RemoveAll(dir)
}

// loadImage reads and checks the image in dir, which may be a link to it.
func loadImage(dir string) (Template, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return Template{}, err
	}
	t := Template{Rootfs: filepath.Join(dir, RootfsName)}
	if err := durable.ReadJSON(filepath.Join(dir, ManifestName), &t.Manifest); err != nil {
		return Template{}, err
	}
	return t, t.check()
}

// check holds the manifest against what a path, a reader and the image's file allow.
func (t Template) check() error {
	if !nameForm.MatchString(t.Name) {
		return models.Errorf(models.Invalid, "template name %q: want lower-case letters, digits, '.', '_' and '-', at most 63", t.Name)
	}
	if !digestForm.MatchString(t.Digest) {
		return models.Errorf(models.Invalid, "template %s: digest %q is not a content hash", t.Name, t.Digest)
	}
	info, err := os.Stat(t.Rootfs)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || t.DiskMiB <= 0 || info.Size() != int64(t.DiskMiB)<<20 {
		return models.Errorf(models.Invalid, "template %s: %s has %d bytes, its manifest says %d MiB",
			t.Name, RootfsName, info.Size(), t.DiskMiB)
	}
	return nil
}

// folder is the digest as the name of a folder. A ':' would make QEMU take the path for a URL.
func (m Manifest) folder() string { return strings.ReplaceAll(m.Digest, ":", "-") }
