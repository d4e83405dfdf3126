package server_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	fspb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/filesystem"
	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/filesystem/filesystemconnect"
)

// eachFilesystem runs a test with both forms of the protocol.
func eachFilesystem(t *testing.T, test func(e *envd, fs filesystemconnect.FilesystemClient)) {
	for name, options := range map[string][]connect.ClientOption{"binary": nil, "JSON": {connect.WithProtoJSON()}} {
		t.Run(name, func(t *testing.T) {
			e := startDebug(t)
			test(e, filesystemconnect.NewFilesystemClient(e.http, e.url, options...))
		})
	}
}

// asRoot makes a request root's.
func asRoot[T any](msg *T) *connect.Request[T] {
	req := connect.NewRequest(msg)
	req.Header().Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("root:")))
	return req
}

func TestFilesystem(t *testing.T) {
	eachFilesystem(t, func(e *envd, fs filesystemconnect.FilesystemClient) {
		ctx := e.Context()
		made, err := fs.MakeDir(ctx, connect.NewRequest(&fspb.MakeDirRequest{Path: "a/b"}))
		if err != nil {
			e.Fatal(err)
		}
		entry := made.Msg.GetEntry()
		if entry.GetPath() != e.home+"/a/b" || entry.GetType() != fspb.FileType_FILE_TYPE_DIRECTORY || entry.GetOwner() != "tester" ||
			entry.GetGroup() != "tester" || entry.GetPermissions() != "drwxr-xr-x" || entry.GetMode() != 0o755 || time.Since(entry.GetModifiedTime().AsTime()) > time.Hour {
			e.Errorf("%v", entry)
		}
		if err := e.uploadEmpty(e.home + "/a/file"); err != nil {
			e.Fatal(err)
		}
		if err := os.Symlink("file", e.home+"/a/link"); err != nil {
			e.Fatal(err)
		}
		list, err := fs.ListDir(ctx, connect.NewRequest(&fspb.ListDirRequest{Path: "~", Depth: 2}))
		if err != nil {
			e.Fatal(err)
		}
		var got []string
		for _, entry := range list.Msg.GetEntries() {
			got = append(got, fmt.Sprint(entry.GetName(), " ", int(entry.GetType()), " ", filepath.Base(entry.GetSymlinkTarget())))
		}
		if diff := cmp.Diff([]string{"a 2 .", "b 2 .", "file 1 .", "link 1 file"}, got); diff != "" {
			e.Error(diff)
		}
		moved, err := fs.Move(ctx, asRoot(&fspb.MoveRequest{Source: e.home + "/a/file", Destination: e.home + "/roots/name"}))
		if err != nil || moved.Msg.GetEntry().GetName() != "name" {
			e.Errorf("%v, %v", moved, err)
		}
		stat, err := fs.Stat(ctx, connect.NewRequest(&fspb.StatRequest{Path: "roots"}))
		if err != nil || stat.Msg.GetEntry().GetOwner() != "root" {
			e.Errorf("%v, %v", stat, err)
		}
		for range 2 {
			if _, err := fs.Remove(ctx, connect.NewRequest(&fspb.RemoveRequest{Path: "a"})); err != nil {
				e.Error(err)
			}
		}
	})
}

func TestFilesystemErrors(t *testing.T) {
	eachFilesystem(t, func(e *envd, fs filesystemconnect.FilesystemClient) {
		ctx := e.Context()
		if err := e.uploadEmpty(e.home + "/file"); err != nil {
			e.Fatal(err)
		}
		_, err := fs.Stat(ctx, connect.NewRequest(&fspb.StatRequest{Path: "missing"}))
		wantCode(e.T, err, connect.CodeNotFound, "file not found: "+e.home+"/missing")
		_, err = fs.Stat(ctx, connect.NewRequest(&fspb.StatRequest{Path: "~other"}))
		wantCode(e.T, err, connect.CodeInvalidArgument, "cannot expand user-specific home dir")
		_, err = fs.ListDir(ctx, connect.NewRequest(&fspb.ListDirRequest{Path: "file"}))
		wantCode(e.T, err, connect.CodeInvalidArgument, "path is not a directory")
		_, err = fs.MakeDir(ctx, connect.NewRequest(&fspb.MakeDirRequest{Path: "~"}))
		wantCode(e.T, err, connect.CodeAlreadyExists, "directory already exists")
		_, err = fs.Move(ctx, connect.NewRequest(&fspb.MoveRequest{Source: "missing", Destination: "x"}))
		wantCode(e.T, err, connect.CodeNotFound, "source file not found")
		_, err = fs.CreateWatcher(ctx, connect.NewRequest(&fspb.CreateWatcherRequest{Path: "file"}))
		wantCode(e.T, err, connect.CodeInvalidArgument, "not a directory")
		_, err = fs.GetWatcherEvents(ctx, connect.NewRequest(&fspb.GetWatcherEventsRequest{WatcherId: "w"}))
		wantCode(e.T, err, connect.CodeNotFound, "watcher with id w not found")
		_, err = fs.RemoveWatcher(ctx, connect.NewRequest(&fspb.RemoveWatcherRequest{}))
		wantCode(e.T, err, connect.CodeNotFound, "not found")
		for path, code := range map[string]connect.Code{"file": connect.CodeInvalidArgument, "missing": connect.CodeNotFound} {
			stream, err := fs.WatchDir(ctx, connect.NewRequest(&fspb.WatchDirRequest{Path: path}))
			if err != nil || stream.Receive() {
				e.Fatalf("%s: a message, or %v", path, err)
			}
			wantCode(e.T, stream.Err(), code, path)
		}
		req := connect.NewRequest(&fspb.StatRequest{Path: "file"})
		req.Header().Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("stranger:")))
		_, err = fs.Stat(ctx, req)
		wantCode(e.T, err, connect.CodeUnauthenticated, "invalid username: 'stranger'")
	})
}

// A watch says that it has begun, sees an upload under its own name, and keeps alive meanwhile.
func TestWatchDir(t *testing.T) {
	eachFilesystem(t, func(e *envd, fs filesystemconnect.FilesystemClient) {
		ctx, cancel := context.WithTimeout(e.Context(), patience)
		defer cancel()
		req := connect.NewRequest(&fspb.WatchDirRequest{Path: "~", Recursive: true, IncludeEntry: true})
		req.Header().Set("Keepalive-Ping-Interval", "1")
		stream, err := fs.WatchDir(withoutDeadline{ctx}, req)
		if err != nil || !stream.Receive() || stream.Msg().GetStart() == nil {
			e.Fatalf("%v, %v", stream.Msg(), err)
		}
		for range 2 {
			if !stream.Receive() || stream.Msg().GetKeepalive() == nil {
				e.Fatalf("%v, %v", stream.Msg(), stream.Err())
			}
		}
		// What happens to the new folder before it is watched is reported too, and may be reported twice.
		octets := http.Header{"Content-Type": {"application/octet-stream"}}
		for round, want := range []string{"EVENT_TYPE_CREATE new, EVENT_TYPE_CREATE new/file, EVENT_TYPE_WRITE new/file", "EVENT_TYPE_WRITE new/file"} {
			if status, text := e.request("POST", "/files?path=new/file", "text", octets); status != 200 {
				e.Fatalf("%d %s", status, text)
			}
			var got []string
			for !slices.Contains(got, "EVENT_TYPE_WRITE new/file") && stream.Receive() {
				event := stream.Msg().GetFilesystem()
				if event == nil || event.GetType() == fspb.EventType_EVENT_TYPE_CHMOD {
					continue
				}
				if event.GetEntry().GetName() != filepath.Base(event.GetName()) {
					e.Errorf("%v", event)
				}
				got = append(got, event.GetType().String()+" "+event.GetName())
			}
			if text := strings.Join(got, ", "); text != want {
				e.Errorf("round %d: %s, error %v", round, text, stream.Err())
			}
		}
	})
}

// A stream that nobody reads any more ends, and what it watched with is freed.
func TestWatchDirAbandoned(t *testing.T) {
	e := startDebug(t)
	fs := filesystemconnect.NewFilesystemClient(e.http, e.url)
	before := measure(t)
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := fs.WatchDir(ctx, connect.NewRequest(&fspb.WatchDirRequest{Path: "/tmp"}))
		if err != nil || !stream.Receive() {
			t.Fatal(err)
		}
		cancel()
		_ = stream.Close()
	}
	e.http.CloseIdleConnections()
	noMoreThan(t, before)
}

func TestWatcherPolled(t *testing.T) {
	eachFilesystem(t, func(e *envd, fs filesystemconnect.FilesystemClient) {
		ctx := e.Context()
		made, err := fs.CreateWatcher(ctx, connect.NewRequest(&fspb.CreateWatcherRequest{Path: ""}))
		if err != nil {
			e.Fatal(err)
		}
		id := made.Msg.GetWatcherId()
		if err := os.Mkdir(e.home+"/dir", 0o755); err != nil {
			e.Fatal(err)
		}
		eventually(e, func() error {
			got, err := fs.GetWatcherEvents(ctx, connect.NewRequest(&fspb.GetWatcherEventsRequest{WatcherId: id}))
			if err != nil {
				e.Fatal(err)
			}
			events := got.Msg.GetEvents()
			if len(events) != 1 || events[0].GetName() != "dir" || events[0].GetType() != fspb.EventType_EVENT_TYPE_CREATE || events[0].GetEntry() != nil {
				return fmt.Errorf("%v", events)
			}
			return nil
		})
		if _, err := fs.RemoveWatcher(ctx, connect.NewRequest(&fspb.RemoveWatcherRequest{WatcherId: id})); err != nil {
			e.Error(err)
		}
	})
}
