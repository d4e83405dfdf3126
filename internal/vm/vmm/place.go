package vmm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// place is where a file lies, in the words of every mount table: the device of its file system, and its path from the root of that. It is empty
// where there is no such folder.
type place struct{ device, path string }

// placeOf returns the place of a file, which need not exist itself.
func placeOf(file string) (place, error) {
	dir, err := unix.Open(filepath.Dir(file), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return place{}, nil
	}
	if err != nil {
		return place{}, &fs.PathError{Op: "open", Path: filepath.Dir(file), Err: err}
	}
	defer unix.Close(dir)
	var stat unix.Statx_t
	if err := unix.Statx(dir, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stat); err != nil {
		return place{}, &fs.PathError{Op: "statx", Path: filepath.Dir(file), Err: err}
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir))
	if err != nil {
		return place{}, err
	}
	for _, m := range mountsOf("/proc/thread-self") {
		if m.id == strconv.FormatUint(stat.Mnt_id, 10) {
			below := strings.TrimPrefix(path, strings.TrimSuffix(m.on, "/"))
			return place{m.device, filepath.Join(m.root, below, filepath.Base(file))}, nil
		}
	}
	return place{}, fmt.Errorf("%s lies on no mount that can be seen", file)
}

// mount is a line of a mount table.
type mount struct{ id, device, root, on string }

// mountsOf reads proc_pid_mountinfo(5) in the folder of a process or thread, which has none if it has ended.
func mountsOf(dir string) []mount {
	text, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
	if err != nil {
		return nil
	}
	var all []mount
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 {
			all = append(all, mount{f[0], f[2], unescape.Replace(f[3]), unescape.Replace(f[4])})
		}
	}
	return all
}

// unescape takes back what the kernel does to paths in mount tables: mangle in its include/linux/seq_file.h.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
