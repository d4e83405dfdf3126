package firecracker_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/testlane"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker"
	"github.com/wrenn-sandbox/wrenn/internal/vm/firecracker/fctest"
	"github.com/wrenn-sandbox/wrenn/internal/vm/seccomp"
	"github.com/wrenn-sandbox/wrenn/internal/vm/vmtest"
)

// filterEnv names a compiled filter for a Firecracker that has none of its own. scripts/test-firecracker.sh sets it.
const filterEnv = "WRENN_SECCOMP_FILTER"

// TestCheckFilterFirecracker holds that a Firecracker that may make any system call is told from one that may not. Which
// one is on the PATH depends on who built it: a file that is given makes it one that may not.
func TestCheckFilterFirecracker(t *testing.T) {
	testlane.NeedRoot(t)
	binary := realFirecracker(t)
	check := func(filter string) error {
		d, err := firecracker.New(t.Context(), firecracker.Options{Binary: binary, Unjailed: true, SeccompFilter: filter})
		must(t, err)
		return d.CheckFilter(t.Context())
	}
	err := check("")
	t.Logf("with the filter that is built in: %v", err)
	if err != nil && !errors.Is(err, firecracker.ErrUnfiltered) {
		t.Error(err)
	}
	if file := os.Getenv(filterEnv); file != "" {
		must(t, check(file))
	}
	bare := script(t, "Firecracker v1.10.1", "exec "+binary+` --no-seccomp "$@"`)
	d, err := firecracker.New(t.Context(), firecracker.Options{Binary: bare, Unjailed: true})
	must(t, err)
	if err := d.CheckFilter(t.Context()); !errors.Is(err, firecracker.ErrUnfiltered) {
		t.Errorf("without any filter: %v", err)
	}
	spoilt := filepath.Join(t.TempDir(), "filter")
	must(t, os.WriteFile(spoilt, []byte("no filter"), 0o644))
	if err := check(spoilt); err == nil || errors.Is(err, firecracker.ErrUnfiltered) || !strings.Contains(err.Error(), "ilter") {
		t.Errorf("with a file that is no filter: %v", err)
	}
}

// TestFilterFile holds that a file which a VM's user could not read is refused, and that one that it can is passed on, also into a jail.
func TestFilterFile(t *testing.T) {
	binary, kernel := fake(t)
	file := filepath.Join(t.TempDir(), "filter")
	must(t, os.WriteFile(file, []byte(fctest.Filter), 0o600))
	if _, err := firecracker.New(t.Context(), firecracker.Options{Binary: binary, Unjailed: true, SeccompFilter: file}); err == nil || !strings.Contains(err.Error(), "no file that every user can read") {
		t.Errorf("a file of its owner's: %v", err)
	}
	must(t, os.Chmod(file, 0o644))
	if _, err := firecracker.New(t.Context(), firecracker.Options{Binary: binary, Unjailed: true, SeccompFilter: file}); err != nil {
		t.Errorf("a file that every user can read: %v", err)
	}
	if _, err := firecracker.New(t.Context(), firecracker.Options{Binary: binary, Unjailed: true, SeccompFilter: file + "2"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	d := newDriverWith(t, firecracker.Options{Binary: binary, SeccompFilter: file})
	echo(t, start(t, d, vmtest.GuestSpec(t, kernel)))
	if err := d.CheckFilter(t.Context()); !errors.Is(err, seccomp.ErrUnknown) {
		t.Errorf("of a program that is no Firecracker: %v", err)
	}
	must(t, os.WriteFile(file, []byte("another"), 0o600))
	if err := d.CheckFilter(t.Context()); err == nil || !strings.Contains(err.Error(), "Filter deserialization failed") {
		t.Errorf("with a file that is no filter: %v", err)
	}
}
