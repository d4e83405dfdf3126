package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

type unixStat = syscall.Stat_t

// Whatever comes, nothing outside of the directory changes, nothing half is left, and what was made is the user's.
func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, "text", dir("d"), reg("d/f"), link("l", "d"), hard("h", "d/f")).Bytes())
	f.Add(archive(f, "text", link("l", "../folder"), reg("l/x")).Bytes())
	f.Add(archive(f, "text", reg("../outside"), hard("h", "../outside")).Bytes())
	f.Add(archive(f, "", tar.Header{Typeflag: tar.TypeChar, Name: "n", Devmajor: 1, Devminor: 3}, reg(strings.Repeat("n/", 100)+"x")).Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		in := newFixture(t)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // to read a file of holes may take for ever
		defer cancel()
		_, _ = Unpack(ctx, bytes.NewReader(data), in.dir, tester)
		in.outside()
		in.clean()
		in.must(filepath.WalkDir(in.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == in.dir {
				return err
			}
			info, err := os.Lstat(path)
			if err != nil || info.Mode()&os.ModeDevice != 0 || info.Sys().(*unixStat).Uid != tester.UID {
				t.Errorf("%s is %v, %v", path, info, err)
			}
			return nil
		}))
	})
}
