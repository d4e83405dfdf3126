package vm

import (
	"strings"
	"testing"
)

func TestGuestPanic(t *testing.T) {
	for console, want := range map[string]string{
		"":                           "",
		"all is well\n":              "",
		"Kernel panic is a sad song": "",
		"x\r\n[    0.51] Kernel panic - not syncing: sysrq triggered crash\r\nCPU: 0\r\n":      "Kernel panic - not syncing: sysrq triggered crash",
		"Kernel panic - not syncing: first\nKernel panic - not syncing: last\n---[ end ]---\n": "Kernel panic - not syncing: last",
		"Requested init /sbin/x failed (error -2).\nKernel panic - not syncing: No working init found.": "" +
			"Requested init /sbin/x failed (error -2).; Kernel panic - not syncing: No working init found.",
		"VFS: Cannot open root device \"vda\" or unknown-block(0,0)\nPlease append a root=\nKernel panic - not syncing: VFS: Unable": "" +
			"VFS: Cannot open root device \"vda\" or unknown-block(0,0); Kernel panic - not syncing: VFS: Unable",
		"Kernel panic - not syncing: \x1b[31m\xff<b>\u2028\x00end\n": "Kernel panic - not syncing: [31m<b>end",
	} {
		if got := GuestPanic([]byte(console)); got != want {
			t.Errorf("%q: %q, want %q", console, got, want)
		}
	}
	if got := GuestPanic([]byte("Kernel panic - not syncing: " + strings.Repeat("x", 100_000))); len(got) != maxReason {
		t.Errorf("a hostile guest's reason has %d bytes", len(got))
	}
}

func TestLastWords(t *testing.T) {
	for output, want := range map[string]string{
		"":                      "",
		"\n \n":                 "",
		"one\n":                 "one",
		"one\ntwo\n\nthree\r\n": "two; three",
		"qemu: \x1b]0;x\x07\n":  "qemu: ]0;x",
	} {
		if got := LastWords([]byte(output), 2); got != want {
			t.Errorf("%q: %q, want %q", output, got, want)
		}
	}
}

// FuzzGuestPanic: whatever is on a console, what is told of it is short, in one line, and stands in it.
func FuzzGuestPanic(f *testing.F) {
	f.Add([]byte("x\r\nKernel panic - not syncing: why\r\n"))
	f.Add([]byte("Requested init /x failed (error -2).\nKernel panic - not syncing: \xff\x00"))
	f.Fuzz(func(t *testing.T, console []byte) {
		for _, words := range []string{GuestPanic(console), LastWords(console, 3)} {
			if len(words) > maxReason || words != Printable(words) {
				t.Errorf("%q", words)
			}
		}
	})
}
