package boot

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
)

// image makes a file with an ext4 in it.
func image(t *testing.T, size string, options ...string) *os.File {
	t.Helper()
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		testlane.Missing(t, "mke2fs is not installed")
	}
	path := filepath.Join(t.TempDir(), "image")
	args := append(append([]string{"-q", "-t", "ext4"}, options...), path, size)
	if out, err := exec.Command(mke2fs, args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func TestReadSuperblock(t *testing.T) {
	for _, test := range []struct {
		size    string
		options []string
		want    superblock
	}{
		{"32M", []string{"-b", "4096"}, superblock{4096, 32 << 20 / 4096}},
		{"8M", []string{"-b", "1024"}, superblock{1024, 8 << 20 / 1024}},
		{"32M", []string{"-b", "4096", "-O", "^64bit"}, superblock{4096, 32 << 20 / 4096}},
		{"20G", []string{"-b", "4096", "-E", "lazy_itable_init=1", "-O", "^has_journal"}, superblock{4096, 20 << 30 / 4096}},
	} {
		if got, err := readSuperblock(image(t, test.size, test.options...)); err != nil || got != test.want {
			t.Errorf("%s %v: got %+v, %v", test.size, test.options, got, err)
		}
	}
}

func TestReadSuperblockOfSomethingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for name, content := range map[string][]byte{"empty": nil, "zeros": make([]byte, 4096)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := readSuperblock(file); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
		_ = file.Close()
	}
}
