package envdclient

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestFilesystem(t *testing.T) {
	c, dir := attach(t), t.TempDir()
	made, err := c.MakeDir(within(t), filepath.Join(dir, "a/b"), "")
	if err != nil || made.Type != TypeDirectory || made.Path != filepath.Join(dir, "a/b") || made.Name != "b" {
		t.Fatalf("%+v, %v", made, err)
	}
	_, err = c.MakeDir(within(t), filepath.Join(dir, "a/b"), "")
	wantError(t, err, models.Conflict, "")
	if _, err := c.WriteFile(within(t), filepath.Join(dir, "a/file"), "", strings.NewReader("text"), unknownSize); err != nil {
		t.Fatal(err)
	}
	if err := c.Chmod(within(t), filepath.Join(dir, "a/file"), "", 0o751, false); err != nil {
		t.Fatal(err)
	}
	e, err := c.Stat(within(t), filepath.Join(dir, "a/file"), "")
	if err != nil || e.Type != TypeFile || e.Size != 4 || e.Mode != 0o751 || e.Owner != "root" || e.ModifiedAt.IsZero() {
		t.Errorf("%+v, %v", e, err)
	}
	for depth, want := range map[int]string{1: "a", 2: "a b file"} {
		var names []string
		all, err := c.List(within(t), dir, "", depth)
		for _, e := range all {
			names = append(names, e.Name)
		}
		if got := strings.Join(names, " "); got != want || err != nil {
			t.Errorf("depth %d: %q, %v", depth, got, err)
		}
	}
	if _, err := c.Move(within(t), filepath.Join(dir, "a/file"), filepath.Join(dir, "moved"), ""); err != nil {
		t.Fatal(err)
	}
	_, err = c.Stat(within(t), filepath.Join(dir, "a/file"), "")
	wantError(t, err, models.NotFound, "")
	for range 2 {
		if err := c.Remove(within(t), filepath.Join(dir, "a"), ""); err != nil {
			t.Error(err)
		}
	}
	_, err = c.List(within(t), filepath.Join(dir, "moved"), "", 1)
	wantError(t, err, models.Invalid, "")
	_, err = c.Stat(within(t), "x", "nobody-here")
	wantError(t, err, models.Invalid, "nobody-here")
}

func TestRanges(t *testing.T) {
	c, path := attach(t), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	whole, err := c.ReadFile(within(t), path, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = whole.Close()
	for _, test := range []struct {
		header http.Header
		status int
		text   string
	}{
		{http.Header{"Range": {"bytes=2-4"}}, http.StatusPartialContent, "234"},
		{http.Header{"Range": {"bytes=20-"}}, http.StatusRequestedRangeNotSatisfiable, ""},
		{http.Header{"If-Modified-Since": {whole.Header.Get("Last-Modified")}}, http.StatusNotModified, ""},
		{http.Header{"Authorization": {"Basic bm9ib2R5LWhlcmU6"}}, http.StatusOK, "0123456789"},
	} {
		f, err := c.ReadFileIf(within(t), path, "", test.header)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if string(b) != test.text || f.Status != test.status || err != nil {
			t.Errorf("%v: %d %q, %v", test.header, f.Status, b, err)
		}
		_ = f.Close()
	}
}

func TestArchive(t *testing.T) {
	c, dir := attach(t), t.TempDir()
	var sent bytes.Buffer
	w := tar.NewWriter(&sent)
	for i := range 3 {
		name := fmt.Sprintf("folder/%d", i)
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o640, Size: int64(len(name))}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, name)
	}
	_ = w.Close()
	if err := c.Unpack(within(t), dir, "", &sent); err != nil {
		t.Fatal(err)
	}
	f, err := c.Archive(within(t), filepath.Join(dir, "folder"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	found := 0
	for r := tar.NewReader(f); ; {
		head, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(r); head.Typeflag == tar.TypeReg && strings.HasPrefix(string(b), "folder/") {
			found++
		}
	}
	if found != 3 {
		t.Errorf("%d of 3 files", found)
	}
	wantError(t, c.Unpack(within(t), dir, "", strings.NewReader(strings.Repeat("no tar", 1000))), models.Invalid, "")
}

func TestWatch(t *testing.T) {
	c, dir := attach(t), t.TempDir()
	w, err := c.Watch(within(t), dir, "", true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if change, err := w.Next(); change != (Change{Name: "file", Type: Created}) || err != nil {
		t.Errorf("%+v, %v", change, err)
	}
	_, err = c.Watch(within(t), filepath.Join(dir, "file"), "", false)
	wantError(t, err, models.Invalid, "")
}
