package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/hostsetup"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

// TestSetupCheck: on this machine it tells of every item, says by its error whether there is anything to do, and makes nothing.
// (What it does where it may change things is package hostsetup's; TestSetupFirecracker shows it on a whole host.)
func TestSetupCheck(t *testing.T) {
	testlane.NeedRoot(t)
	cfg, err := config.LoadAgent()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = filepath.Join(t.TempDir(), "data")
	var out bytes.Buffer
	err = setup(t.Context(), cfg, setupOptions{check: true}, &out)
	if models.CodeOf(err) != models.Precondition { // the data folder does not exist, if nothing else
		t.Errorf("%v", err)
	}
	for _, text := range []string{"modules: ", "to do    folders: ", "why: ", "folder " + cfg.Data + ": absent -> 0711", "--with nx-huge-pages", "halt the whole host"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("it does not say %q:\n%s", text, out.String())
		}
	}
	if _, err := os.Stat(cfg.Data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it has made the data folder: %v", err)
	}
}

// TestSetupFirecracker prepares a whole host, which scripts/test-firecracker.sh has made for the purpose, and takes it all back.
func TestSetupFirecracker(t *testing.T) {
	if os.Getenv("WRENN_DISPOSABLE_HOST") != "1" {
		t.Skip("skipped: scripts/test-firecracker.sh runs this in an emulated host")
	}
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
	cfg, err := config.LoadAgent()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data, cfg.VolumeGiB = filepath.Join(dataFolder(t), "setup"), 1
	watched := []string{
		"/proc/self/mountinfo", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/pid_max", "/proc/sys/net/netfilter/nf_conntrack_max",
		"/sys/module/kvm/parameters/halt_poll_ns",
	}
	if err := os.WriteFile(watched[1], []byte("0"), 0); err != nil { // an agent that ran here before has set it
		t.Fatal(err)
	}
	before := contents(watched)
	var out bytes.Buffer
	if err := setup(t.Context(), cfg, setupOptions{with: []string{"halt-poll"}}, &out); err != nil {
		t.Fatal(err)
	}
	t.Logf("set up:\n%s", out.String())
	after := contents(watched)
	for i, want := range []string{"favordynmods", "1\n", "4194304\n", "", "0\n"} {
		if before[i] == after[i] || !strings.Contains(after[i], want) {
			t.Errorf("%s became %q, not %q", watched[i], after[i], want)
		}
	}
	out.Reset()
	if err := setup(t.Context(), cfg, setupOptions{undo: true}, &out); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	if diff := cmp.Diff(before, contents(watched)); diff != "" {
		t.Errorf("undo has left %s\n%s", diff, out.String())
	}
}

func contents(files []string) []string {
	all := make([]string, len(files))
	for i, name := range files {
		text, _ := os.ReadFile(name) // "" where there is none
		all[i] = string(text)
	}
	return all
}

func TestSetupPrints(t *testing.T) {
	for want, r := range map[string]hostsetup.Result{
		"ok       a: b\n": {},
		"changed  a: b\n         why: c\n         knob k: 0 -> 1\n":                {Steps: []hostsetup.Step{{What: "knob k", Before: "0", After: "1"}}},
		"in part  a: b\n         why: c\n         k: cannot be changed here: no\n": {Steps: []hostsetup.Step{{What: "k", Err: errors.New("no")}}},
		"by hand  a: b\n         why: c\n         v1\n         -> boot\n":          {Found: "v1", Fix: "boot"},
		"cannot   a: b\n         why: c\n         no (do)\n":                       {Err: models.Errorf(models.Invalid, "no").WithHint("do")},
		"skipped  a: b\n         not here\n":                                       {Skipped: "not here"},
	} {
		r.Name, r.What, r.Why = "a", "b", "c"
		var out bytes.Buffer
		printItem(&out, r, "changed")
		if out.String() != want {
			t.Errorf("%+v is told as\n%s\nnot\n%s", r, out.String(), want)
		}
	}
	if got := stepText(hostsetup.Step{What: "k", Left: "it is in use"}); got != "k: left: it is in use" {
		t.Error(got)
	}
}
