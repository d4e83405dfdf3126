package hostsetup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
)

// file is a file with its whole content. The folder must exist.
type file struct{}

func (file) read(_ context.Context, m *machine, target string) (state, error) {
	info, err := os.Lstat(m.path(target))
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", target)
	}
	if err != nil {
		return state{}, err
	}
	text, err := os.ReadFile(m.path(target))
	return state{Present: true, Text: string(text), Mode: info.Mode().Perm()}, err
}

func (file) write(_ context.Context, m *machine, target string, to state) error {
	if !to.Present {
		return durable.RemoveAll(m.path(target))
	}
	return durable.WriteFile(m.path(target), []byte(to.Text), to.Mode)
}

func (file) words(s state) string {
	if !s.Present {
		return "absent"
	}
	return fmt.Sprintf("%d lines", strings.Count(s.Text, "\n"))
}

// link is a symbolic link.
type link struct{}

func (link) read(_ context.Context, m *machine, target string) (state, error) {
	text, err := os.Readlink(m.path(target))
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	return state{Present: err == nil, Text: text}, err
}

func (link) write(_ context.Context, m *machine, target string, to state) error {
	if !to.Present {
		return durable.RemoveAll(m.path(target))
	}
	return durable.Symlink(to.Text, m.path(target))
}

func (link) words(s state) string { return presence(s) }

// folder is a folder with its owner and permissions; what is in it is not its matter.
type folder struct{}

func (folder) read(_ context.Context, m *machine, target string) (state, error) {
	s, err := owned(m.path(target), fs.ModeDir)
	s.Text = ""
	return s, err
}

func (folder) write(_ context.Context, m *machine, target string, to state) error {
	path := m.path(target)
	if !to.Present {
		err := os.Remove(path)
		if errors.Is(err, unix.ENOTEMPTY) {
			return &leftError{"it is not empty"}
		}
		return err
	}
	if err := os.Mkdir(path, to.Mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(os.Chown(path, to.UID, to.GID), os.Chmod(path, to.Mode))
}

func (folder) words(s state) string {
	if !s.Present {
		return "absent"
	}
	return fmt.Sprintf("%04o, owner %d:%d", s.Mode, s.UID, s.GID)
}

// owned reads owner and permissions of what must be of a type.
func owned(path string, kind fs.FileMode) (state, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode().Type() != kind {
		return state{}, fmt.Errorf("%s is something else than expected: %v", path, info.Mode())
	}
	return state{Present: true, Mode: info.Mode().Perm(), UID: int(sys.Uid), GID: int(sys.Gid)}, nil
}

// device is a device node of which group (Text, by name) and permissions are set. It is never made or removed.
type device struct{}

func (device) read(_ context.Context, m *machine, target string) (state, error) {
	s, err := owned(m.path(target), fs.ModeDevice|fs.ModeCharDevice)
	if err == nil && s.Present {
		s.Text = m.groupName(s.GID)
	}
	s.UID, s.GID = 0, 0
	return s, err
}

func (device) write(_ context.Context, m *machine, target string, to state) error {
	gid, err := m.groupID(to.Text)
	if err != nil {
		return err
	}
	return errors.Join(os.Chown(m.path(target), -1, gid), os.Chmod(m.path(target), to.Mode))
}

func (device) words(s state) string {
	if !s.Present {
		return "absent"
	}
	return fmt.Sprintf("%04o, group %s", s.Mode, s.Text)
}

// line is a line of a file that belongs to others, named PATH#LINE. An empty file that the line's removal leaves stays.
type line struct{}

func (line) read(_ context.Context, m *machine, target string) (state, error) {
	path, text, _ := strings.Cut(target, "#")
	content, err := os.ReadFile(m.path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	present := slices.Contains(strings.Split(string(content), "\n"), text)
	return state{Present: present}, err
}

func (line) write(_ context.Context, m *machine, target string, to state) error {
	name, text, _ := strings.Cut(target, "#")
	path, err := filepath.EvalSymlinks(m.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		path, err = m.path(name), nil
	}
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	lines := slices.DeleteFunc(strings.SplitAfter(string(content), "\n"), func(l string) bool {
		return l == "" || strings.TrimSuffix(l, "\n") == text
	})
	if n := len(lines); n > 0 && !strings.HasSuffix(lines[n-1], "\n") {
		lines[n-1] += "\n"
	}
	if to.Present {
		lines = append(lines, text+"\n")
	}
	return durable.WriteFile(path, []byte(strings.Join(lines, "")), mode)
}

func (line) words(s state) string { return presence(s) }
