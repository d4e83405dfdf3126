package hook

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
)

// runAll runs scripts as hooks, by name, and returns a line for each that was run.
func runAll(t *testing.T, limit time.Duration, scripts map[string]string) []string {
	t.Helper()
	reaper, err := reap.New(reap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer reaper.Close()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, readme := scripts["README"]; readme {
		if err := os.Chmod(filepath.Join(dir, "README"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	for _, ran := range (Runner{Reaper: reaper, Dir: dir, Limit: limit}).Run() {
		lines = append(lines, fmt.Sprintf("%s %q %v", ran.Name, ran.Output, ran.Err))
	}
	return lines
}

// Hooks run one after the other by their names, up to the first that fails, and what they say is kept in part.
func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "order")
	got := runAll(t, 0, map[string]string{
		"20-second": "read x < " + file + "; echo after $x >&2", "10-first": "echo first > " + file, "README": "exit 1",
		"30-long": "yes | head -c 100000", "40-fails": "echo why; exit 7", "50-never": "touch " + file + ".not",
	})
	want := []string{`10-first "" <nil>`, `20-second "after first\n" <nil>`, fmt.Sprintf("30-long %q <nil>", strings.Repeat("y\n", 512)),
		`40-fails "why\n" it ended with status 7`}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if _, err := os.Stat(file + ".not"); err == nil {
		t.Error("a hook was run after one that failed")
	}
}

// A hook that hangs is killed; what a hook leaves running holds nobody up.
func TestRunTakesTooLong(t *testing.T) {
	got := runAll(t, 300*time.Millisecond, map[string]string{"hangs": "echo begun; exec sleep 1000"})
	if len(got) != 1 || got[0] != `hangs "begun\n" it has not ended within 300ms` && got[0] != `hangs "" it has not ended within 300ms` {
		t.Errorf("got %q", got)
	}
	got = runAll(t, 0, map[string]string{"leaves": "sleep 3 & echo left"})
	if len(got) != 1 || got[0] != `leaves "left\n" <nil>` {
		t.Errorf("got %q", got)
	}
	got = runAll(t, 0, map[string]string{"dies": "kill -9 $$"})
	if len(got) != 1 || got[0] != `dies "" it was ended by signal 9` {
		t.Errorf("got %q", got)
	}
}

func TestNoHooks(t *testing.T) {
	for _, dir := range []string{"", filepath.Join(t.TempDir(), "missing")} {
		if ran := (Runner{Dir: dir}).Run(); len(ran) > 0 {
			t.Errorf("%q: %v", dir, ran)
		}
	}
}
