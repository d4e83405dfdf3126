package api

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

type entryAnswer struct {
	Name       string    `json:"name"`
	Path       string    `json:"path"`
	Type       string    `json:"type"`
	Size       int       `json:"size"`
	Mode       string    `json:"mode"`
	Owner      string    `json:"owner"`
	ModifiedAt time.Time `json:"modified_at"`
	Target     *string   `json:"symlink_target"`
}

type listingAnswer struct {
	Path  string        `json:"path"`
	Items []entryAnswer `json:"items"`
}

// files returns the path of /files of a new sandbox, and a folder that its guest shares with the test.
func (r *rig) files() (url, dir string) {
	r.t.Helper()
	return "/v1/sandboxes/" + r.create().ID + "/files", r.t.TempDir()
}

func TestEntries(t *testing.T) {
	r := newRig(t, Limits{})
	files, dir := r.files()
	if a := r.call("PUT", files+dir+"/a/b/file", "content", "Content-Type", ""); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	made := decoded[entryAnswer](t, r.call("POST", files+"/mkdir", `{"path":"`+dir+`/made/deep"}`), http.StatusOK)
	if made.Type != "directory" || made.Name != "deep" || made.Path != dir+"/made/deep" || made.Mode != "0755" {
		t.Errorf("made %+v", made)
	}
	decoded[entryAnswer](t, r.call("POST", files+"/mkdir", `{"path":"`+dir+`/made/deep"}`), http.StatusOK) // again
	changed := decoded[entryAnswer](t, r.call("POST", files+"/chmod", `{"path":"`+dir+`/a/b/file","mode":"0640"}`), http.StatusOK)
	if changed.Mode != "0640" || changed.Size != 7 || changed.Type != "file" || time.Since(changed.ModifiedAt) > time.Minute {
		t.Errorf("changed %+v", changed)
	}
	if a := r.call("PUT", files+dir+"/program?mode=0755", "x"); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	if made := decoded[entryAnswer](t, r.call("GET", files+dir+"/program?info=true", ""), http.StatusOK); made.Mode != "0755" {
		t.Errorf("made %+v", made)
	}
	a := r.call("PUT", files+dir+"/in/?mode=0755", "", "Content-Type", "application/x-tar")
	if a.status != http.StatusBadRequest {
		t.Errorf("an archive with a mode: %d %s", a.status, a.body)
	}
	moved := decoded[entryAnswer](t, r.call("POST", files+"/move", `{"from":"`+dir+`/a/b/file","to":"`+dir+`/other/name"}`), http.StatusOK)
	if moved.Path != dir+"/other/name" {
		t.Errorf("moved %+v", moved)
	}
	if info := decoded[entryAnswer](t, r.call("GET", files+dir+"/other/name?info=true", ""), http.StatusOK); info.Mode != "0640" {
		t.Errorf("info %+v", info)
	}
	list := decoded[listingAnswer](t, r.call("GET", files+dir+"?depth=3", ""), http.StatusOK)
	var names []string
	for _, e := range list.Items {
		names = append(names, strings.TrimPrefix(e.Path, dir+"/"))
	}
	if got := strings.Join(names, " "); list.Path != dir || got != "a a/b made made/deep other other/name program" {
		t.Errorf("listing of %s: %s", list.Path, got)
	}
	if a := r.call("DELETE", files+dir+"/a", ""); a.status != http.StatusNoContent {
		t.Errorf("removal: %d %s", a.status, a.body)
	}
	if _, err := os.Stat(dir + "/a"); !os.IsNotExist(err) {
		t.Errorf("what was removed: %v", err)
	}
}

func TestRanges(t *testing.T) {
	r := newRig(t, Limits{})
	files, dir := r.files()
	large := bytes.Repeat([]byte("0123456789"), 100_000)
	if err := os.WriteFile(filepath.Join(dir, "file"), large, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		header, value string
		status        int
		want          string
	}{
		{"Range", "bytes=3-5", http.StatusPartialContent, "345"},
		{"Range", "bytes=-2", http.StatusPartialContent, "89"},
		{"Range", "bytes=999999-", http.StatusPartialContent, "9"},
		{"Range", "bytes=1000000-", http.StatusRequestedRangeNotSatisfiable, ""},
		{"If-Modified-Since", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), http.StatusNotModified, ""},
		{"If-Unmodified-Since", time.Unix(0, 0).UTC().Format(http.TimeFormat), http.StatusPreconditionFailed, ""},
	} {
		a := r.call("GET", files+dir+"/file", "", c.header, c.value)
		if a.status != c.status || c.want != "" && string(a.body) != c.want {
			t.Errorf("%s: %s: %d, %.100s", c.header, c.value, a.status, a.body)
		}
	}
	if a := r.call("GET", files+dir+"/file", ""); !bytes.Equal(a.body, large) || a.header.Get("Last-Modified") == "" {
		t.Errorf("the whole file: %d bytes, %v", len(a.body), a.header)
	}
}

func TestArchives(t *testing.T) {
	r := newRig(t, Limits{})
	files, dir := r.files()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	w := tar.NewWriter(zipped)
	for name, content := range map[string]string{"x/one": "1", "x/y/two": "22"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	a := r.call("PUT", files+dir+"/in/", packed.String(), "Content-Type", "application/x-tar", "Content-Encoding", "gzip")
	if a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	out := r.call("GET", files+dir+"/in", "", "Accept", "application/x-tar")
	found := map[string]string{}
	for reader := tar.NewReader(bytes.NewReader(out.body)); ; {
		h, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			found[strings.TrimPrefix(h.Name, "./")] = fmt.Sprintf("%o %s", h.Mode&0o777, content)
		}
	}
	if len(found) != 2 || found["x/one"] != "600 1" || found["x/y/two"] != "600 22" {
		t.Errorf("the archive holds %v", found)
	}
	escape := bytes.ReplaceAll([]byte(tarOf(t, "XX/escaped")), []byte("XX/"), []byte("../"))
	if a := r.call("PUT", files+dir+"/in", string(fixChecksum(escape)), "Content-Type", "application/x-tar"); a.status != http.StatusBadRequest {
		t.Errorf("an archive that leads outside: %d %s", a.status, a.body)
	}
	if _, err := os.Stat(dir + "/escaped"); !os.IsNotExist(err) {
		t.Errorf("it has escaped: %v", err)
	}
}

func tarOf(t testing.TB, name string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// fixChecksum writes the checksum of the first header anew (tar(5): the sum of its bytes, those of the sum as spaces).
func fixChecksum(archive []byte) []byte {
	sum := 0
	copy(archive[148:156], "        ")
	for _, b := range archive[:512] {
		sum += int(b)
	}
	copy(archive[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return archive
}

func TestWatch(t *testing.T) {
	r := newRig(t, Limits{})
	files, dir := r.files()
	resp, err := http.DefaultClient.Do(r.request("GET", strings.TrimSuffix(files, "/files")+"/watch?recursive=true&path="+dir, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		for lines.Scan() {
			if data, found := strings.CutPrefix(lines.Text(), "data: "); found {
				return data
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return ""
	}
	if first := next(); first != "{}" {
		t.Errorf("first %s", first)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if change := next(); change != `{"path":"new","type":"create"}` {
		t.Errorf("then %s", change)
	}
}

func TestBadEntryRequests(t *testing.T) {
	r := newRig(t, Limits{})
	files, dir := r.files()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	body := func(format string) string { return strings.ReplaceAll(format, "DIR", dir) }
	for _, c := range []struct {
		name, request, body string
		status              int
		code                models.Code
		says                string
	}{
		{"missing", "GET " + files + dir + "/none", "", 404, models.NotFound, "none"},
		{"info of what is missing", "GET " + files + dir + "/none?info=true", "", 404, models.NotFound, "none"},
		{"removal of what is missing", "DELETE " + files + dir + "/none", "", 404, models.NotFound, "none"},
		{"depth", "GET " + files + dir + "?depth=0", "", 400, models.Invalid, "depth"},
		{"no boolean", "GET " + files + dir + "?info=1", "", 400, models.Invalid, "info"},
		{"empty path", "GET " + files + "?path=", "", 400, models.Invalid, "path is required"},
		{"content of a directory", "PUT " + files + dir + "/", "x", 400, models.Invalid, "directory"},
		{"dots", "POST " + files + "/mkdir", `{"path":"/tmp/../etc/x"}`, 400, models.Invalid, ".."},
		{"directory over a file", "POST " + files + "/mkdir", body(`{"path":"DIR/file"}`), 400, models.Invalid, "not a directory"},
		{"move from nowhere", "POST " + files + "/move", body(`{"from":"DIR/none","to":"DIR/x"}`), 404, models.NotFound, "none"},
		{"mode", "POST " + files + "/chmod", body(`{"path":"DIR/file","mode":"rwx"}`), 400, models.Invalid, "octal"},
		{"mode of an upload", "PUT " + files + dir + "/x?mode=rwx", "x", 400, models.Invalid, "octal"},
		{"mode of a download", "GET " + files + dir + "/file?mode=644", "", 400, models.Invalid, "mode"},
		{"chmod of what is missing", "POST " + files + "/chmod", body(`{"path":"DIR/none","mode":"644"}`), 404, models.NotFound, "none"},
		{"watch of a file", "GET " + strings.TrimSuffix(files, "files") + "watch?path=" + dir + "/file", "", 400, models.Invalid, "file"},
		{"watch of nothing", "GET " + strings.TrimSuffix(files, "files") + "watch?path=" + dir + "/none", "", 404, models.NotFound, "none"},
		{"user", "GET " + files + dir + "?info=true&user=nobody-here", "", 400, models.Invalid, "nobody-here"},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		a := r.call(method, path, c.body)
		e := decoded[errorAnswer](t, answer{c.status, a.header, a.body}, c.status).Error
		if a.status != c.status || e.Code != c.code || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: %d %s", c.name, a.status, a.body)
		}
	}
	// A file whose name is that of an operation.
	if a := r.call("GET", files+"/mkdir", ""); a.status != http.StatusNotFound {
		t.Errorf("GET of /mkdir: %d %s", a.status, a.body)
	}
}
