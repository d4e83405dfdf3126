package id

import (
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMadeIDsParse(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		sb, err := ParseSandbox(string(NewSandbox()))
		if err != nil {
			t.Fatal(err)
		}
		host, err := ParseHost(string(NewHost()))
		if err != nil {
			t.Fatal(err)
		}
		key, err := ParseKey(string(NewKey()))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{string(sb), string(host), string(key), string(NewAccount()), string(NewRequest())} {
			if seen[s] {
				t.Errorf("%s was made twice in 500 ids", s)
			}
			seen[s] = true
		}
	}
}

// TestOnlyTheExactFormParses: an id is used in paths, device names and URLs, so nothing that
// could leave a folder or end a string early may pass.
func TestOnlyTheExactFormParses(t *testing.T) {
	for _, s := range []string{
		"", "sb-", "sb-0123456", "sb-012345678", "sb-0123456G", "SB-01234567", "sb-ABCDEF01", "sb-01234567\n",
		" sb-01234567", "sb-../../etc", "sb-0123456/", "sb-01234567\x00", "host-01234567", "sb_01234567", "sb-０1234567",
	} {
		if got, err := ParseSandbox(s); err == nil {
			t.Errorf("ParseSandbox(%q) = %q", s, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "text")
		if got, err := ParseSandbox(s); err == nil && len(got) != len("sb-01234567") {
			t.Fatalf("ParseSandbox(%q) = %q", s, got)
		}
	})
}

// FuzzParse: what any kind of id is parsed from is the name of one file or folder, whatever it is joined to, and one word.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"sb-01234567", "host-01234567", "ctx-01234567", "term-0123456789abcdef", "key-01234567", "token-0123456789abcdef", "../sb-01234567", "sb-0123456\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for name, parse := range map[string]func(string) error{
			"sandbox":  func(s string) error { _, err := ParseSandbox(s); return err },
			"host":     func(s string) error { _, err := ParseHost(s); return err },
			"context":  func(s string) error { _, err := ParseContext(s); return err },
			"terminal": func(s string) error { _, err := ParseTerminal(s); return err },
			"key":      func(s string) error { _, err := ParseKey(s); return err },
			"token":    func(s string) error { _, err := ParseHostToken(s); return err },
		} {
			if parse(text) != nil {
				continue
			}
			if filepath.Join("/a/b", text) != "/a/b/"+text || filepath.Base(text) != text || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
				t.Errorf("%q is taken for the id of a %s", text, name)
			}
		}
	})
}
