package main

import (
	"archive/tar"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/vmtest"
)

// tarOf makes an archive of one file and a link to it.
func tarOf(t *testing.T, name, text string) string {
	t.Helper()
	var b strings.Builder
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640, Size: int64(len(text))})
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err == nil {
		err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: name})
	}
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The guest's kernel and disk have what files need: openat2, inotify, extended attributes.
func TestGuestFiles(t *testing.T) {
	g := vmtest.Boot(t, vmtest.Options{})
	g.Init(`,"defaultUser":"root"`)
	call := func(method, request string) string { return g.Post("/filesystem.Filesystem/"+method, request) }
	call("MakeDir", `{"path":"/srv/watched"}`)
	var made struct{ WatcherID string }
	if err := json.Unmarshal([]byte(call("CreateWatcher", `{"path":"/srv/watched","recursive":true}`)), &made); err != nil {
		t.Fatal(err)
	}
	g.Post("/archive?path=/srv/watched/in", tarOf(t, "deep/er/file", "text"))
	g.Post("/chmod?path=/srv/watched/in&mode=0700&recursive=true", "")
	contains(t, call("ListDir", `{"path":"/srv/watched","depth":9}`),
		`"path":"/srv/watched/in/deep/er/file"`, `"symlinkTarget":"/srv/watched/in/deep/er/file"`, `"permissions":"-rwx------"`, `"owner":"root"`)
	events := ""
	for deadline := time.Now().Add(vmtest.Patience); !strings.Contains(events, "EVENT_TYPE_CHMOD") || !strings.Contains(events, `"in/deep/er/file"`); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the events are %s", events)
		}
		events += call("GetWatcherEvents", `{"watcherId":"`+made.WatcherID+`"}`)
	}
	contains(t, g.Run("cat", "/srv/watched/in/link"), "text")
	g.Post("/files/compose", `{"source_paths":["/srv/watched/in/deep/er/file"],"destination":"/srv/composed"}`)
	contains(t, g.Run("cat", "/srv/composed"), "text")
	call("Remove", `{"path":"/srv/watched"}`)
	contains(t, call("ListDir", `{"path":"/srv"}`), `"name":"composed"`)
}
