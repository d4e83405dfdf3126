package user_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

func database(t testing.TB, passwd, group string) user.Database {
	t.Helper()
	dir := t.TempDir()
	db := user.Database{Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group")}
	for path, text := range map[string]string{db.Passwd: passwd, db.Group: group} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func TestLookup(t *testing.T) {
	db := database(t, strings.Join([]string{
		"# a comment", "", "broken:x:1", "negative:x:-1:1::/:/bin/sh", "max:x:4294967295:1::/:/bin/sh",
		"root:x:0:0:root:/root:/bin/bash", "user:x:1000:1001:The User,,,:/home/user:/bin/bash",
		"bare:x:1002:1002:::", "user:x:5:5::/second:/bin/false", "last:x:1003:1003::/l:/bin/sh",
	}, "\n"), "root:x:0:\nsudo:x:27:other,user\nuser:x:1001:user\ndocker:x:999:user\nagain:x:27:user\nbad:x:y:user\nx\nprefix:x:7:users\n")
	for name, want := range map[string]*user.User{
		"root": {Name: "root", Home: "/root", Shell: "/bin/bash"},
		"user": {Name: "user", UID: 1000, GID: 1001, Groups: []uint32{27, 999}, Home: "/home/user", Shell: "/bin/bash"},
		"bare": {Name: "bare", UID: 1002, GID: 1002, Home: "/", Shell: "/bin/sh"},
		"last": {Name: "last", UID: 1003, GID: 1003, Home: "/l", Shell: "/bin/sh"},
	} {
		got, err := db.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, name := range []string{"", "nobody", "broken", "negative", "max", "# a comment", "1000", "user:x"} {
		if got, err := db.Lookup(name); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	if got, err := db.LookupUID(1000); err != nil || got.Name != "user" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMissingFiles(t *testing.T) {
	db := database(t, "root:x:0:0::/root:/bin/sh\n", "")
	db.Group += "-missing"
	if got, err := db.Lookup("root"); err != nil || got.Groups != nil {
		t.Errorf("%v, %v", got, err)
	}
	db.Passwd += "-missing"
	if _, err := db.Lookup("root"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// Whatever the files hold, a lookup ends, and what it finds has the name that was asked for.
func FuzzLookup(f *testing.F) {
	f.Add("root:x:0:0::/root:/bin/sh\n", "g:x:1:root\n", "root")
	f.Add("a:b:1:2:::\n\x00:::", ":::,", "\x00")
	f.Fuzz(func(t *testing.T, passwd, group, name string) {
		got, err := database(t, passwd, group).Lookup(name)
		if err == nil && (got.Name != name || name == "" || got.UID == 1<<32-1) {
			t.Errorf("%q led to %+v", name, got)
		}
	})
}
