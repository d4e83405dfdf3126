// Package filesystem keeps the host's disks: the templates' images and the copy-on-write
// clones that sandboxes write to. (Files inside a sandbox are envd's.)
//
// Images lie in Config.Dir as images/<template>/<digest>/{rootfs.ext4,manifest.json}, with
// images/<template>/current naming the digest that new sandboxes get. They come in by
// Import, whole and synced or not at all, and are never written to afterwards.
//
// A clone shares its image's blocks where the file system has reflinks (XFS, btrfs): it
// then takes a fraction of a millisecond and no space. Elsewhere it is a sparse copy,
// which takes time and space in proportion to the data; EnsureReflinkVolume makes a
// place with reflinks on any file system. Either way a clone is independent of its image,
// which may be removed at any time.
package filesystem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/clone"
	"github.com/wrenn-sandbox/wrenn/internal/durable"
)

// Config says where a Store lies.
type Config struct {
	Dir    string       // made when absent; clones go onto the same file system
	Volume *Volume      // that Dir lies on, if any: its image's own disk then limits FreeMiB
	Logger *slog.Logger // nil: slog.Default()
}

// Method is how a disk was copied.
type Method string

// The methods, fastest first.
const (
	Reflink    Method = "reflink"     // FICLONE: blocks are shared until one side writes
	SparseCopy Method = "sparse-copy" // data is copied, holes stay holes
)

// Info says what a store can do and what room it has.
type Info struct {
	Reflinks bool
	Method   Method
	FSType   string // as in mount(8), or the magic number of statfs(2) in hexadecimal
	TotalMiB int64
	FreeMiB  int64 // what can really be written: on a Volume also limited by the disk beneath
}

// Store is a folder of images, and the maker of clones. Its methods may be called at the same time.
type Store struct {
	dir      string
	volume   *Volume
	log      *slog.Logger
	reflinks bool

	mu sync.Mutex // serialises what changes the set of images: Import, Prune
}

// Open returns the store in cfg.Dir. It clones a small file to find out whether the file
// system has reflinks, warns in the log when not, and removes what an interrupted Import
// left. One process at a time may have a store open.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Store{dir: cfg.Dir, volume: cfg.Volume, log: cfg.Logger}
	if err := os.MkdirAll(s.images(), 0o700); err != nil {
		return nil, fmt.Errorf("open disk store: %w", err)
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("clean disk store %s: %w", s.dir, err)
	}
	var err error
	if s.reflinks, err = HasReflinks(s.dir); err != nil {
		return nil, fmt.Errorf("probe %s for reflinks: %w", s.dir, err)
	}
	s.warn(ctx)
	return s, nil
}

// Info says what the store can do and what room it has now.
func (s *Store) Info() (Info, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return Info{}, fmt.Errorf("statfs %s: %w", s.dir, err)
	}
	info := Info{
		Reflinks: s.reflinks,
		Method:   SparseCopy,
		FSType:   fsType(st.Type),
		TotalMiB: blocksMiB(st.Blocks, st.Bsize),
		FreeMiB:  blocksMiB(st.Bavail, st.Bsize),
	}
	if s.reflinks {
		info.Method = Reflink
	}
	if s.volume == nil {
		return info, nil
	}
	free, err := s.volume.FreeMiB()
	info.FreeMiB = min(info.FreeMiB, free)
	return info, err
}

func (s *Store) images() string { return filepath.Join(s.dir, "images") }

func (s *Store) warn(ctx context.Context) {
	if s.reflinks {
		return
	}
	s.log.WarnContext(ctx, "no reflinks: every sandbox's disk is a full copy of its template's data",
		"dir", s.dir, "method", SparseCopy,
		"remedy", "run `make setup-host`, or put the data folder on XFS or btrfs")
}

// sweep removes what killed Imports and Prunes left.
func (s *Store) sweep() error {
	err := errors.Join(durable.Sweep(s.dir), durable.Sweep(s.images()))
	entries, listErr := os.ReadDir(s.images())
	err = errors.Join(err, listErr)
	for _, entry := range entries {
		if entry.IsDir() {
			err = errors.Join(err, durable.Sweep(filepath.Join(s.images(), entry.Name())))
		}
	}
	return err
}

// HasReflinks reports whether the file system of dir, which must exist, has reflinks: it clones a file of one block there, believes
// only what it reads back, and removes both.
func HasReflinks(dir string) (bool, error) {
	temp, err := durable.Temp(filepath.Join(dir, "probe"))
	if err != nil {
		return false, err
	}
	defer func() { _ = os.RemoveAll(temp) }() // if it fails, the next Open sweeps it away
	block := bytes.Repeat([]byte("wrenn..."), 512)
	if err := os.WriteFile(filepath.Join(temp, "a"), block, 0o600); err != nil {
		return false, err
	}
	err = clone.Try(filepath.Join(temp, "a"), filepath.Join(temp, "b"))
	if errors.Is(err, clone.ErrNoReflink) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	got, err := os.ReadFile(filepath.Join(temp, "b"))
	return bytes.Equal(got, block), err
}

func blocksMiB(blocks uint64, size int64) int64 { return int64(blocks) * size >> 20 }

// fsType names the file systems that a host's disk is likely to have; the numbers are statfs(2)'s.
func fsType(magic int64) string {
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs",
		unix.F2FS_SUPER_MAGIC: "f2fs", 0x2fc12fc1: "zfs", 0xca451a4e: "bcachefs",
	}
	if name, ok := names[magic]; ok {
		return name
	}
	return fmt.Sprintf("%#x", uint32(magic))
}
