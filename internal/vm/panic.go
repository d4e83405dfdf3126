package vm

import (
	"bytes"
	"regexp"
	"strings"
)

// Markers of the Linux kernel's last words: panic() in kernel/panic.c, the error of init/main.c that precedes the
// panic about a missing init, and those of init/do_mounts.c that precede the panic about the root file system.
var (
	panicLine = regexp.MustCompile(`Kernel panic - not syncing: [^\r\n]*`)
	beforeIt  = regexp.MustCompile(`(Requested init .* failed|VFS: Cannot open root device) [^\r\n]*`)
)

// maxReason bounds what a guest, which may be hostile, can put into Exit.Reason.
const maxReason = 512

// GuestPanic returns the guest kernel's own words about why it gave up, or "" when console holds none. It is printable
// ASCII, as the guest may be hostile.
func GuestPanic(console []byte) string {
	at := lastIndex(panicLine, console)
	if at == nil {
		return ""
	}
	text := string(console[at[0]:at[1]])
	if cause := lastIndex(beforeIt, console[:at[0]]); cause != nil && at[0]-cause[1] < 4096 {
		text = string(console[cause[0]:cause[1]]) + "; " + text
	}
	return Printable(text)
}

// LastWords returns the last non-empty lines, at most n, of what a VMM wrote about itself, joined by "; ".
func LastWords(output []byte, n int) string {
	var lines []string
	for line := range bytes.Lines(output) {
		if s := strings.TrimSpace(string(line)); s != "" {
			lines = append(lines, s)
		}
	}
	return Printable(strings.Join(lines[max(0, len(lines)-n):], "; "))
}

// Printable makes foreign text fit for a one-line message: printable ASCII, at most 512 bytes.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), maxReason)]
}

func lastIndex(re *regexp.Regexp, text []byte) []int {
	all := re.FindAllIndex(text, -1)
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}
