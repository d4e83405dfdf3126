package filesystem_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

const mib = 1 << 20

func TestOpenWarnsOnceWithoutReflinks(t *testing.T) {
	var log bytes.Buffer
	store := openStore(t, tmpfs(t, "64m"), &log)
	info, err := store.Info()
	if err != nil {
		t.Fatal(err)
	}
	want := filesystem.Info{Method: filesystem.SparseCopy, FSType: "tmpfs", TotalMiB: 64, FreeMiB: info.FreeMiB}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "remedy=") {
		t.Errorf("%d warnings, want one with the remedy:\n%s", n, &log)
	}
}

func TestOpenFindsReflinks(t *testing.T) {
	volume := newVolume(t)
	var log bytes.Buffer
	store, err := filesystem.Open(t.Context(), filesystem.Config{Dir: volume.Dir, Volume: volume, Logger: textLog(&log)})
	if err != nil {
		t.Fatal(err)
	}
	info, err := store.Info()
	if err != nil || !info.Reflinks || info.Method != filesystem.Reflink || info.FSType != "xfs" {
		t.Errorf("info = %+v, %v", info, err)
	}
	if info.FreeMiB <= 0 || info.FreeMiB > 1024 {
		t.Errorf("free = %d MiB on a volume of 1 GiB", info.FreeMiB)
	}
	if log.Len() > 0 {
		t.Errorf("unwanted: %s", &log)
	}
}

// What can be written to a volume is limited by the disk that its image lies on.
func TestInfoCountsTheDiskBeneath(t *testing.T) {
	volume := newVolume(t)
	free, err := volume.FreeMiB()
	if err != nil {
		t.Fatal(err)
	}
	tight := *volume
	tight.Dir = tmpfs(t, "1m")
	if got, err := tight.FreeMiB(); err != nil || got > 1 || free <= 1 {
		t.Errorf("free = %d MiB on 1 MiB, %d on the volume, %v", got, free, err)
	}
}

// A folder that is used without a volume can be given as one.
func TestPlainFolderAsVolume(t *testing.T) {
	plain := &filesystem.Volume{Dir: tmpfs(t, "8m"), Native: true}
	if free, err := plain.FreeMiB(); err != nil || free < 7 || free > 8 {
		t.Errorf("free = %d MiB, %v", free, err)
	}
	if err := plain.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOpenRemovesWhatAnInterruptedImportLeft(t *testing.T) {
	dir := t.TempDir()
	template := filepath.Join(dir, "images", "python311")
	if err := os.MkdirAll(template, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.Temp(filepath.Join(template, "sha256-0123")); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir, nil)
	wantNames(t, template)
	wantNames(t, dir, "images")
}

// image makes the files of a template in a new folder: size MiB, of which every fourth holds data.
func image(t *testing.T, name, digest string, size int) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, filesystem.RootfsName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := 0; i < size; i += 4 {
		if _, err := f.WriteAt(bytes.Repeat([]byte(digest), mib/len(digest)), int64(i)*mib); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(int64(size) * mib); err != nil {
		t.Fatal(err)
	}
	writeManifest(t, dir, filesystem.Manifest{Name: name, Digest: digest, DiskMiB: size})
	return dir
}

func writeManifest(t testing.TB, dir string, m filesystem.Manifest) {
	t.Helper()
	if err := durable.WriteJSON(filepath.Join(dir, filesystem.ManifestName), m, 0o600); err != nil {
		t.Fatal(err)
	}
}

func openStore(t *testing.T, dir string, log *bytes.Buffer) *filesystem.Store {
	t.Helper()
	if log == nil {
		log = new(bytes.Buffer)
	}
	store, err := filesystem.Open(t.Context(), filesystem.Config{Dir: dir, Logger: textLog(log)})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func textLog(w *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func mustImport(t *testing.T, store *filesystem.Store, dir string) filesystem.Template {
	t.Helper()
	template, err := store.Import(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return template
}

// newVolume returns a mounted volume of 1 GiB that goes with the test.
func newVolume(t *testing.T) *filesystem.Volume {
	t.Helper()
	testlane.NeedRoot(t)
	return ensureVolume(t, t.TempDir())
}

// madeVolume returns a volume that was made, and the folder that its image is in.
func madeVolume(t *testing.T) (*filesystem.Volume, string) {
	t.Helper()
	testlane.NeedRoot(t)
	dir := t.TempDir()
	volume := ensureVolume(t, dir)
	if volume.Native {
		testlane.Missing(t, "the folder for temporary files has reflinks itself: no volume is made")
	}
	return volume, dir
}

func ensureVolume(t *testing.T, dir string) *filesystem.Volume {
	t.Helper()
	volume, err := filesystem.EnsureReflinkVolume(t.Context(), dir, filesystem.VolumeConfig{SizeGiB: 1, Logger: textLog(new(bytes.Buffer))})
	if err != nil {
		testlane.Missing(t, err.Error())
	}
	t.Cleanup(func() {
		if err := volume.Unmount(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return volume
}

// tmpfs returns a folder on a file system of its own that has no reflinks.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	testlane.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		testlane.Missing(t, "cannot mount a tmpfs: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func wantCode(t *testing.T, err error, code models.Code, mention string) {
	t.Helper()
	if err == nil || models.CodeOf(err) != code {
		t.Errorf("error = %v, want code %s", err, code)
		return
	}
	coded := models.AsError(err)
	if !strings.Contains(coded.Message+" "+coded.Hint, mention) {
		t.Errorf("%q (hint %q) does not mention %q", coded.Message, coded.Hint, mention)
	}
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", dir, diff)
	}
}

func wantSame(t *testing.T, a, b string) {
	t.Helper()
	left, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	right, err := os.ReadFile(b)
	if err != nil || !bytes.Equal(left, right) {
		t.Errorf("%s and %s differ (%d and %d bytes, %v)", a, b, len(left), len(right), err)
	}
}
