// Package snapshot keeps snapshots of sandboxes in folders of this host, by the format of docs/design/snapshot-format.md.
//
// A snapshot is built in a staging folder and takes its place whole: whatever instant the power is cut at, a name leads to the old snapshot
// or to the new one, or to none if there was none. A snapshot in place never changes.
package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// Format is the version of the format that this package reads and writes.
const Format = 1

// Kind says what a snapshot is for.
type Kind string

// The kinds.
const (
	Golden Kind = "golden" // a template, booted and ready
	Pause  Kind = "pause"  // a sandbox that sleeps
	Named  Kind = "named"  // made on request, to create sandboxes from
)

// Names of the files of a snapshot.
const (
	VMStateFile   = "vmstate"
	MemoryFile    = "memory"
	RootfsFile    = "rootfs"
	manifestFile  = "manifest.json"
	integrityFile = "integrity.json"
)

// Manifest says what a snapshot is, and what it takes to restore it. Format and Files are filled in by Staging.Commit.
type Manifest struct {
	Format    int             `json:"format"`
	ID        string          `json:"id"`
	Kind      Kind            `json:"kind"`
	Sandbox   string          `json:"sandbox,omitempty"`
	Parent    string          `json:"parent,omitempty"` // the snapshot that the VM was restored from
	Template  Template        `json:"template"`
	CreatedAt time.Time       `json:"created_at"`
	Machine   vm.Machine      `json:"machine"`
	Kernel    string          `json:"kernel"` // SHA-256 of the kernel that the guest booted from
	Envd      string          `json:"envd"`
	Network   bool            `json:"network"`
	Token     string          `json:"token,omitempty"` // that the guest's envd asks for until whoever restores it sets another
	Files     map[string]File `json:"files"`
}

// Template is the disk that a snapshot's is a changed clone of.
type Template struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// File is what a manifest says of one of the files.
type File struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"` // of vmstate alone
}

// Snapshot is one that is in place.
type Snapshot struct {
	Manifest
	Dir string
}

// Image is what a driver restores.
func (s Snapshot) Image() vm.Image {
	return vm.Image{Files: filesIn(s.Dir), Machine: s.Machine}
}

// Rootfs is the path of the disk, of which every VM gets a clone.
func (s Snapshot) Rootfs() string { return filepath.Join(s.Dir, RootfsFile) }

func filesIn(dir string) vm.Files {
	return vm.Files{State: filepath.Join(dir, VMStateFile), Memory: filepath.Join(dir, MemoryFile)}
}

// maxVMState is more than any driver writes, and little enough to be read each time.
const maxVMState = 64 << 20

// read opens the snapshot in dir, and checks what can be checked at once: manifest, sizes, and the checksum of vmstate.
func read(dir, id string) (Snapshot, error) {
	s := Snapshot{Dir: dir}
	err := durable.ReadJSON(filepath.Join(dir, manifestFile), &s.Manifest)
	_, gone := os.Lstat(dir)
	switch {
	case errors.Is(gone, fs.ErrNotExist):
		return Snapshot{}, models.Errorf(models.NotFound, "there is no snapshot %s on this host", id)
	case err != nil:
		return Snapshot{}, damaged(id, manifestFile, err)
	case s.Format != Format:
		return Snapshot{}, models.Errorf(models.Precondition, "snapshot %s has the format %d, and this host knows %d", id, s.Format, Format)
	case s.ID != id:
		return Snapshot{}, damaged(id, manifestFile, fmt.Errorf("it is of %q", s.ID))
	}
	for _, name := range files {
		if err := s.checkFile(name); err != nil {
			return Snapshot{}, damaged(id, name, err)
		}
	}
	return s, nil
}

func (s Snapshot) checkFile(name string) error {
	want, listed := s.Files[name]
	if !listed {
		return errors.New("the manifest does not know it")
	}
	have, err := describe(filepath.Join(s.Dir, name))
	if err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("it has %d bytes and the checksum %q, not %d and %q", have.Size, have.SHA256, want.Size, want.SHA256)
	}
	return nil
}

// describe returns what a manifest says of a file.
func describe(path string) (File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return File{}, err
	}
	if !info.Mode().IsRegular() {
		return File{}, errors.New("it is no regular file")
	}
	f := File{Size: info.Size()}
	if filepath.Base(path) != VMStateFile {
		return f, nil
	}
	if f.Size > maxVMState {
		return File{}, fmt.Errorf("it has more than %d bytes", maxVMState)
	}
	text, err := os.ReadFile(path)
	sum := sha256.Sum256(text)
	f.SHA256 = hex.EncodeToString(sum[:])
	return f, err
}

func damaged(id, file string, cause error) error {
	return models.Errorf(models.Precondition, "snapshot %s is damaged: %s", id, file).WithCause(cause)
}

var idForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

func checkID(id string) error {
	if !idForm.MatchString(id) {
		return models.Errorf(models.Invalid, "%q is no name for a snapshot", id)
	}
	return nil
}
