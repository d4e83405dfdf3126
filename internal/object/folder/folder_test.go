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
