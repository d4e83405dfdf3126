package files

import (
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/envd/internal/filesystem"
)

func (f *fixture) putWith(path string, header ...string) (int, string) {
	f.Helper()
	resp, text := f.do("POST", at(path), strings.NewReader("x"), append(header, "Content-Type", "application/octet-stream")...)
	return resp.StatusCode, text
}

// Each upload replaces the metadata, and the answer has what was kept.
func TestMetadata(t *testing.T) {
	f := newFixture(t)
	path := f.home + "/file"
	status, text := f.putWith("file", "X-Metadata-Color", "dark red", "x-metadata-n", "")
	if status != 200 || !strings.Contains(text, `"metadata":{"color":"dark red","n":""}`) {
		t.Fatalf("%d %s", status, text)
	}
	if got := filesystem.ReadMetadata(path); got["color"] != "dark red" || len(got) != 2 {
		t.Errorf("%v", got)
	}
	if status, text = f.putWith("file", "X-Metadata-Other", "y"); status != 200 || !strings.Contains(text, `"metadata":{"other":"y"}`) {
		t.Errorf("%d %s", status, text)
	}
	if status, text = f.putWith("file"); status != 200 || strings.Contains(text, "metadata") || filesystem.ReadMetadata(path) != nil {
		t.Errorf("%d %s", status, text)
	}
	body, kind := multipartBody(t, [3]string{"file", "one", "1"}, [3]string{"file", "two", "2"})
	resp, text := f.do("POST", nil, body, "Content-Type", kind, "X-Metadata-Set", "both")
	if resp.StatusCode != 200 || strings.Count(text, `"metadata":{"set":"both"}`) != 2 {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

func TestMetadataRefused(t *testing.T) {
	f := newFixture(t)
	f.mustPut("file", "old")
	for text, header := range map[string][2]string{
		"exceeds 246 bytes":  {"X-Metadata-" + strings.Repeat("k", 247), "x"},
		"exceeds 4096 bytes": {"X-Metadata-A", strings.Repeat("v", 4096)},
		"not printable":      {"X-Metadata-A", "ü"},
	} {
		resp, body := f.do("POST", at("file"), strings.NewReader("x"), "Content-Type", "application/octet-stream", header[0], header[1])
		f.refused(resp, body, 400, text)
	}
	f.content(f.home+"/file", "old")
	status, text := f.putWith("file", "X-Metadata-A", strings.Repeat("v", 4000))
	if status != 200 && status != 507 { // a file system may have less space for it
		t.Errorf("%d %s", status, text)
	}
	f.clean()
}
