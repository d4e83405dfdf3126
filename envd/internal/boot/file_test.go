package boot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSetFile(t *testing.T) {
	dir := t.TempDir()
	elsewhere := filepath.Join(dir, "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink("/nonexistent/stub-resolv.conf", dangling); err != nil {
		t.Fatal(err)
	}
	longer := filepath.Join(dir, "longer")
	if err := os.WriteFile(longer, []byte("more than the new content"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, dangling, longer, filepath.Join(dir, "new")} {
		if err := setFile(path, []byte("content")); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
		if got, _ := os.ReadFile(path); string(got) != "content" {
			t.Errorf("%s: %q", path, got)
		}
	}
	if got, _ := os.ReadFile(elsewhere); string(got) != "untouched" {
		t.Errorf("the link was followed: %q", got)
	}
}

// A file that is right already is not written: its blocks stay shared with the image.
func TestSetFileLeavesWhatIsRight(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := setFile(path, []byte("content")); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() {
		t.Errorf("the file was replaced: %v, %v", after, err)
	}
}
