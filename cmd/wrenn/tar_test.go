package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzUnpack: whatever two entries an archive of a sandbox has, one after the other, nothing outside of the folder it is unpacked into is
// made, changed or linked to, and no file is more than its owner's to run as.
func FuzzUnpack(f *testing.F) {
	f.Add("../outside", "", byte(tar.TypeReg), "x", "", byte(tar.TypeReg), int64(0o644))
	f.Add("/outside", "", byte(tar.TypeReg), "a/../../outside", "", byte(tar.TypeReg), int64(0o4755))
	f.Add("link", "..", byte(tar.TypeSymlink), "link/outside", "", byte(tar.TypeReg), int64(0o644))
	f.Add("link", "../victim", byte(tar.TypeSymlink), "link", "", byte(tar.TypeReg), int64(0o644))
	f.Add("hard", "../victim", byte(tar.TypeLink), "hard", "", byte(tar.TypeReg), int64(0o644))
	f.Add("link", "../victim", byte(tar.TypeSymlink), "hard", "link", byte(tar.TypeLink), int64(0o644))
	f.Add("device", "", byte(tar.TypeChar), "fifo", "", byte(tar.TypeFifo), int64(0o666))
	f.Add("link", "../dir", byte(tar.TypeSymlink), "link/", "", byte(tar.TypeDir), int64(0o777))
	f.Fuzz(func(t *testing.T, name1, link1 string, kind1 byte, name2, link2 string, kind2 byte, mode int64) {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, h := range []tar.Header{{Name: name1, Linkname: link1, Typeflag: kind1}, {Name: name2, Linkname: link2, Typeflag: kind2}} {
			if h.Mode = mode; h.Typeflag == tar.TypeReg {
				h.Size = 4
			}
			if w.WriteHeader(&h) != nil {
				return // no archive has that
			}
			if h.Size > 0 {
				_, _ = w.Write([]byte("evil"))
			}
		}
		_ = w.Close() // what was written is an archive
		outer := t.TempDir()
		inner, victim := filepath.Join(outer, "inner"), filepath.Join(outer, "victim")
		for _, err := range []error{os.Mkdir(inner, 0o700), os.Mkdir(filepath.Join(outer, "dir"), 0o700), os.WriteFile(victim, []byte("mine"), 0o600)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		root, err := os.OpenRoot(inner)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_ = unpack(&archive, root, func(string) {}) // it may refuse
		entries, err := os.ReadDir(outer)
		if err != nil || len(entries) != 3 {
			t.Errorf("beside the folder there is %v, %v", entries, err)
		}
		dir, errDir := os.Stat(filepath.Join(outer, "dir"))
		text, errText := os.ReadFile(victim)
		info, errInfo := os.Stat(victim)
		if errDir != nil || errText != nil || errInfo != nil || dir.Mode().Perm() != 0o700 || string(text) != "mine" || info.Mode().Perm() != 0o600 {
			t.Errorf("outside has changed: %q %v %v", text, info.Mode(), dir.Mode())
		}
		checkPlain(t, inner)
	})
}

// checkPlain looks for files with special permissions or links to files outside.
func checkPlain(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky|os.ModeDevice|os.ModeNamedPipe) != 0 {
			t.Errorf("%s is %v", path, info.Mode())
		}
		return err
	})
	if err != nil && !os.IsPermission(err) {
		t.Error(err)
	}
}
