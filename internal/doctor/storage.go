package doctor

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// What sandboxes need of the disk, in bytes.
const (
	leastDisk  = 512 << 20
	enoughDisk = 10 << 30
)

func checkGuestKernel(_ context.Context, m *machine) Finding {
	const name, fix = "guest kernel", "make images, or name another with --kernel"
	if m.Kernel == "" {
		return fail(name, "none", fix)
	}
	f, err := elf.Open(m.Kernel)
	if err != nil {
		return fail(name, fmt.Sprintf("%s cannot be used: %v", m.Kernel, err), fix)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 && f.Machine != elf.EM_AARCH64 {
		return fail(name, fmt.Sprintf("%s is for %s", m.Kernel, f.Machine), fix)
	}
	return ok(name, m.Kernel)
}

func checkImages(_ context.Context, m *machine) Finding {
	const name, fix = "images", "make images, or name another folder with --images"
	manifests, err := filepath.Glob(filepath.Join(m.Images, "*", "manifest.json"))
	if m.Images == "" || err != nil || len(manifests) == 0 {
		return fail(name, fmt.Sprintf("there is no template image in %q", m.Images), fix)
	}
	var good, bad []string
	for _, path := range manifests {
		template, err := readTemplate(path)
		if err != nil {
			bad = append(bad, err.Error())
		} else {
			good = append(good, template)
		}
	}
	sort.Strings(good)
	switch {
	case len(good) == 0:
		return fail(name, strings.Join(bad, "; "), fix)
	case len(bad) > 0:
		return warn(name, strings.Join(bad, "; "), fix)
	}
	return ok(name, strings.Join(good, ", ")+" in "+m.Images)
}

// readTemplate checks one image as far as that is cheap and returns its name.
func readTemplate(manifest string) (string, error) {
	b, err := os.ReadFile(manifest)
	if err != nil {
		return "", err
	}
	var m struct{ Name, Digest string }
	if err := json.Unmarshal(b, &m); err != nil || m.Name == "" || m.Digest == "" {
		return "", fmt.Errorf("%s is no manifest", manifest)
	}
	info, err := os.Stat(filepath.Join(filepath.Dir(manifest), "rootfs.ext4"))
	if err != nil {
		return "", err
	}
	if info.Size() == 0 {
		return "", fmt.Errorf("the root file system of %s is empty", m.Name)
	}
	return m.Name, nil
}

func checkReflinks(_ context.Context, m *machine) Finding {
	const name = "reflinks"
	dir := existing(m.Data)
	if volume := m.volume(); volume != "" {
		dir = volume
	}
	if err := m.reflinks(dir); err != nil {
		fix := "wrenn up and the host agent make an XFS volume in a loop file for them; or put the data folder on XFS or btrfs"
		if !m.exists("dev/loop-control") || !strings.Contains(m.read("proc/filesystems"), "xfs") {
			fix = "put the data folder on XFS or btrfs: without reflinks each sandbox copies its disk"
		}
		return warn(name, fmt.Sprintf("%s has none: %v", dir, err), fix)
	}
	return ok(name, dir+" has them")
}

// volume is where an XFS volume is mounted below the data folder, "" if nowhere.
func (m *machine) volume() string {
	for _, line := range strings.Split(m.read("proc/self/mounts"), "\n") {
		f := strings.Fields(line)
		if len(f) > 2 && strings.HasPrefix(f[1], m.Data+"/") && (f[2] == "xfs" || f[2] == "btrfs") {
			return f[1]
		}
	}
	return ""
}

// probeReflinks tries FICLONE (ioctl_ficlone(2)) between two files in dir.
func probeReflinks(dir string) error {
	from, err := os.CreateTemp(dir, ".wrenn-doctor-")
	if err != nil {
		return err
	}
	defer os.Remove(from.Name())
	defer from.Close()
	to, err := os.CreateTemp(dir, ".wrenn-doctor-")
	if err != nil {
		return err
	}
	defer os.Remove(to.Name())
	defer to.Close()
	if _, err := from.Write(make([]byte, 4096)); err != nil {
		return err
	}
	return unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
}

func checkLoop(_ context.Context, m *machine) Finding {
	const name = "loop devices"
	if !m.exists("dev/loop-control") {
		return warn(name, "/dev/loop-control does not exist, so that no volume with reflinks can be made", "modprobe loop")
	}
	return ok(name, "/dev/loop-control exists")
}

// space is what a file system offers, in bytes.
type space struct{ free, total uint64 }

func statSpace(dir string) (space, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return space{}, err
	}
	return space{free: fs.Bavail * uint64(fs.Bsize), total: fs.Blocks * uint64(fs.Bsize)}, nil
}

func checkDisk(_ context.Context, m *machine) Finding {
	const name = "disk space"
	dir := existing(m.Data)
	s, err := m.filesystem(dir)
	if err != nil {
		return warn(name, fmt.Sprintf("unknown for %s: %v", dir, err), "look at the data folder's file system")
	}
	found := fmt.Sprintf("%s free of %s at %s", size(s.free), size(s.total), dir)
	switch {
	case s.free < leastDisk:
		return fail(name, found, "free some space, or use another data folder")
	case s.free < enoughDisk:
		return warn(name, found, fmt.Sprintf("free some space: images and a few sandboxes take about %s", size(enoughDisk)))
	}
	return ok(name, found)
}

// size gives bytes in GiB or MiB.
func size(bytes uint64) string {
	if bytes >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}

func isMissing(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)
}
