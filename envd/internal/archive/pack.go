package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readAtOnce is how many names of a directory are held at a time, for each level of it.
const readAtOnce = 64

// maxLinked is how many files with several links are remembered. A link to another one becomes a copy.
const maxLinked = 65_536

// pseudo are the file systems that hold what the kernel makes up (statfs(2)); a directory
// where one is mounted is packed empty.
var pseudo = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true,
	unix.DEVPTS_SUPER_MAGIC: true, unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true, unix.SECURITYFS_MAGIC: true,
	unix.BPF_FS_MAGIC: true, unix.BINFMTFS_MAGIC: true,
}

type inode struct{ dev, ino uint64 }

// packer is one Pack under way.
type packer struct {
	ctx     context.Context
	root    string
	out     *tar.Writer
	linked  map[inode]string
	skipped int
}

// Pack writes what is in the directory dir, without the directory itself, in the order in which the
// kernel lists it: each directory before what is in it. It keeps modes, times, symbolic links and hard links.
// Devices and sockets mean nothing elsewhere: they are skipped, and their number is returned. What vanishes
// meanwhile is left out. The error is an *Error or the context's; what was written by then is not an archive.
func Pack(ctx context.Context, w io.Writer, dir string) (skipped int, err error) {
	p := packer{ctx: ctx, root: dir, out: tar.NewWriter(w), linked: map[inode]string{}}
	if err := p.folder("", syscall.O_DIRECTORY); err != nil {
		return p.skipped, err
	}
	return p.skipped, p.out.Close()
}

// folder packs what is in a directory; flags are those to open it with.
func (p *packer) folder(name string, flags int) error {
	dir, err := os.OpenFile(filepath.Join(p.root, name), os.O_RDONLY|flags, 0)
	if name != "" && gone(err) {
		return nil
	}
	if err != nil {
		return &Error{Entry: name, Err: err}
	}
	defer func() { _ = dir.Close() }()
	for {
		names, err := dir.Readdirnames(readAtOnce)
		for _, below := range names {
			if err := p.entry(path.Join(name, below)); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return &Error{Entry: name, Err: err}
		}
	}
}

// gone reports whether err says that something is not there any more, or is something else now.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

func (p *packer) entry(name string) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	var stat unix.Stat_t
	full := filepath.Join(p.root, name)
	if err := unix.Lstat(full, &stat); gone(err) {
		return nil
	} else if err != nil {
		return &Error{Entry: name, Err: err}
	}
	var err error
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = p.file(name, full, &stat)
	case unix.S_IFDIR:
		return p.directory(name, full, &stat)
	case unix.S_IFLNK:
		err = p.symlink(name, full, &stat)
	case unix.S_IFIFO:
		err = p.out.WriteHeader(header(name, tar.TypeFifo, &stat))
	default:
		p.skipped++
	}
	if err != nil {
		return &Error{Entry: name, Err: err}
	}
	return nil
}

// header describes an entry in the PAX form, which has long names and parts of a second.
func header(name string, kind byte, stat *unix.Stat_t) *tar.Header {
	return &tar.Header{
		Name: name, Typeflag: kind, Mode: int64(stat.Mode & 0o7777), Uid: int(stat.Uid), Gid: int(stat.Gid),
		ModTime: time.Unix(stat.Mtim.Unix()), Format: tar.FormatPAX,
	}
}

func (p *packer) directory(name, full string, stat *unix.Stat_t) error {
	if err := p.out.WriteHeader(header(name+"/", tar.TypeDir, stat)); err != nil {
		return &Error{Entry: name, Err: err}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(full, &fs); err == nil && pseudo[fs.Type] {
		return nil
	}
	return p.folder(name, syscall.O_DIRECTORY|syscall.O_NOFOLLOW)
}

func (p *packer) symlink(name, full string, stat *unix.Stat_t) error {
	target, err := os.Readlink(full)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	h := header(name, tar.TypeSymlink, stat)
	h.Linkname = target
	return p.out.WriteHeader(h)
}

// file packs a regular file. It has the size that it had when it was opened: what is added
// meanwhile is left out, and that something is cut off is an error.
func (p *packer) file(name, full string, stat *unix.Stat_t) error {
	if first := p.link(name, stat); first != "" {
		h := header(name, tar.TypeLink, stat)
		h.Linkname = first
		return p.out.WriteHeader(h)
	}
	file, err := os.OpenFile(full, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if err := unix.Fstat(int(file.Fd()), stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return err // nil: it is something else by now
	}
	h := header(name, tar.TypeReg, stat)
	h.Size = stat.Size
	if err := p.out.WriteHeader(h); err != nil {
		return err
	}
	return p.content(file, h.Size)
}

// link returns the name under which the file was packed before, or remembers this one.
func (p *packer) link(name string, stat *unix.Stat_t) string {
	if stat.Nlink < 2 {
		return ""
	}
	id := inode{stat.Dev, stat.Ino}
	first := p.linked[id]
	if first == "" && len(p.linked) < maxLinked {
		p.linked[id] = name
	}
	return first
}

func (p *packer) content(file *os.File, size int64) error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for size > 0 {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		n, err := file.Read(buf[:min(size, bufferSize)])
		if n == 0 {
			return fmt.Errorf("it shrank while it was read, %d bytes are missing: %w", size, err)
		}
		if _, err := p.out.Write(buf[:n]); err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}
