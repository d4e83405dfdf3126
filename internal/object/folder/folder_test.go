package folder_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object/folder"
	"github.com/wrenn-sandbox/wrenn/internal/object/objecttest"
)

func TestContract(t *testing.T) {
	s, err := folder.Open(filepath.Join(t.TempDir(), "objects"))
	if err != nil {
		t.Fatal(err)
	}
	objecttest.Run(t, s)
}

// What a killed writer left is no object.
func TestHalfWrittenIsNotSeen(t *testing.T) {
	dir := t.TempDir()
	s, err := folder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".key.123.wrenn-tmp"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for info, err := range s.List(t.Context(), "") {
		t.Errorf("listed: %+v %v", info, err)
	}
	if _, err := s.Get(t.Context(), "key", 9); models.CodeOf(err) != models.NotFound {
		t.Error(err)
	}
}

// A folder that cannot be reached, as one of a network may, says so, and not that its objects are gone.
func TestFolderThatIsAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "objects")
	s, err := folder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a/key", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("objects", dir); err != nil { // to itself: ELOOP
		t.Fatal(err)
	}
	_, got := s.Get(t.Context(), "a/key", 9)
	_, stat := s.Stat(t.Context(), "a/key")
	for what, err := range map[string]error{"get": got, "stat": stat, "put": s.Put(t.Context(), "a/key", nil), "delete": s.Delete(t.Context(), "a/key")} {
		if models.CodeOf(err) != models.Unavailable {
			t.Errorf("%s: %v, want that it is unavailable", what, err)
		}
	}
}
