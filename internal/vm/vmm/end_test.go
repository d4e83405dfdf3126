package vmm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

func TestKilled(t *testing.T) {
	group := func(kills string) string {
		dir := t.TempDir()
		for file, text := range map[string]string{"memory.events": "oom 1\noom_kill " + kills + "\n", "memory.max": "314572800\n"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	short, enough := group("1"), group("0")
	for _, c := range []struct {
		name  string
		exit  vm.Exit
		group string
		oom   bool
		says  string // "" for nothing
	}{
		{"killed for want of memory", vm.Exit{Known: true, Signal: 9}, short, true, "the host's memory limit of the VM, 300 MiB"},
		{"the same, adopted", vm.Exit{}, short, true, "the host's memory limit of the VM, 300 MiB"},
		{"killed by somebody", vm.Exit{Known: true, Signal: 9}, enough, false, "ended by signal 9 (killed)"},
		{"killed without a cgroup", vm.Exit{Known: true, Signal: 9}, "", false, "ended by signal 9 (killed)"},
		{"another signal after a kill", vm.Exit{Known: true, Signal: 11}, short, false, "ended by signal 11"},
		{"seccomp", vm.Exit{Known: true, Signal: 31}, enough, false, "seccomp"},
		{"asked for", vm.Exit{Known: true, Signal: 9, Asked: true}, short, false, ""},
		{"by itself", vm.Exit{Known: true}, short, false, ""},
	} {
		got := Killed(c.exit, "QEMU", c.group)
		if got.OOM != c.oom || !strings.Contains(got.Reason, c.says) || c.says == "" && got.Reason != "" {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}
