package files

import (
	"net/url"
	"os"
	"strings"
	"testing"
)

// An upload that says a mode sets it, whether the file is new or replaced; the file is never seen with another.
func TestModeOfUpload(t *testing.T) {
	f := newFixture(t)
	path := f.home + "/file"
	for _, step := range []struct {
		mode string
		want os.FileMode
	}{{"600", 0o600}, {"", 0o600}, {"0755", 0o755}, {"6711", 0o711 | os.ModeSetuid | os.ModeSetgid}, {"0", 0}} {
		query := url.Values{"path": {"file"}, "mode": {step.mode}}
		resp, text := f.do("POST", query, strings.NewReader("x"), "Content-Type", "application/octet-stream")
		if resp.StatusCode != 200 {
			t.Fatalf("mode %q: %d %s", step.mode, resp.StatusCode, text)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != step.want {
			t.Errorf("mode %q: %v, %v", step.mode, info.Mode(), err)
		}
	}
	body, kind := multipartBody(t, [3]string{"file", "one", "1"}, [3]string{"file", "two", "2"})
	f.do("POST", url.Values{"mode": {"400"}}, body, "Content-Type", kind)
	for _, name := range []string{"one", "two"} {
		if info, err := os.Stat(f.home + "/" + name); err != nil || info.Mode() != 0o400 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, wrong := range []string{"rwx", "8", "17777", "-1"} {
		resp, text := f.do("POST", url.Values{"path": {"other"}, "mode": {wrong}}, strings.NewReader("x"), "Content-Type", "application/octet-stream")
		f.refused(resp, text, 400, "octal")
	}
	f.clean()
}
