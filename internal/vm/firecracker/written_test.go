package firecracker

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// What a VMM that was taken over puts in the place of the files that it writes is neither read nor written to, and goes with them.
func TestSheetIsNotTheVMMsToReplace(t *testing.T) {
	dir := t.TempDir()
	secret, saved := filepath.Join(dir, "secret"), filepath.Join(dir, "saved")
	check(t, os.WriteFile(secret, []byte("the host's"), 0o600), os.WriteFile(saved, nil, 0o600))
	root, err := os.OpenRoot(t.TempDir())
	check(t, err)
	defer root.Close()
	inJail := filepath.Join(root.Name(), writtenState)
	check(t, os.Symlink(secret, inJail)) // before the snapshot

	v := &VM{saved: vm.Saved{Owner: uint32(os.Getuid())}}
	s, err := v.sheet(root, writtenState)
	check(t, err, os.WriteFile(inJail, []byte("a state"), 0o600))
	check(t, os.Remove(inJail), os.Symlink(secret, inJail)) // and while it is written
	check(t, s.save(t.Context(), saved), s.tear())
	if got, err := os.ReadFile(saved); err != nil || string(got) != "a state" {
		t.Errorf("the snapshot says %q (%v)", got, err)
	}
	if got, err := os.ReadFile(secret); err != nil || string(got) != "the host's" {
		t.Errorf("the host's file says %q (%v)", got, err)
	}
	if _, err := os.Lstat(inJail); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is left in the jail (%v)", err)
	}
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
