package files

import (
	"bytes"
	"io/fs"
	"mime/multipart"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/httptest"
	"github.com/wrenn-sandbox/wrenn/envd/internal/session"
	"github.com/wrenn-sandbox/wrenn/envd/internal/user"
)

// Whatever a multipart body is, it ends in an answer, nothing half is left, and what it does not name
// with an absolute path or ".." is in the user's home.
func FuzzMultipart(f *testing.F) {
	part := func(name, file, text string) string {
		return "--b\r\nContent-Disposition: form-data; name=\"" + name + "\"; filename=\"" + file + "\"\r\n\r\n" + text + "\r\n"
	}
	f.Add([]byte(part("file", "a", "text") + "--b--\r\n"))
	f.Add([]byte(part("file", "dir/a", "1") + part("other", "b", "2") + part("file", "~/c", "3") + "--b--"))
	f.Add([]byte(part("file", "a", "text")))
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=file; filename*=UTF-8''%2e%2e\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=41\r\n--b--"))
	f.Add([]byte("--b\r\n\r\n--b--"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(data, []byte("..")) || names(data, "/") {
			return // may write anywhere, as any upload may
		}
		top := t.TempDir()
		home := filepath.Join(top, "home")
		db := user.Database{Passwd: filepath.Join(top, "passwd")}
		if err := os.WriteFile(db.Passwd, []byte("tester:x:54321:54322::"+home+":/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		upload := http.HandlerFunc(New(session.New("tester"), db, false).Upload)
		header := http.Header{"Content-Type": {"multipart/form-data; boundary=b"}}
		answer := httptest.Ask(t, upload, http.MethodPost, "/files", header, bytes.NewReader(data))
		if answer.Status != 200 && answer.Status != 400 {
			t.Errorf("%d %s", answer.Status, &answer.Body)
		}
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if strings.HasPrefix(d.Name(), ".wrenn-") || !strings.HasPrefix(path, home) && path != top && path != db.Passwd {
				t.Errorf("%s is left", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// names reports whether a part is called something that begins with prefix.
func names(data []byte, prefix string) bool {
	reader := multipart.NewReader(bytes.NewReader(data), "b")
	for {
		part, err := reader.NextRawPart()
		if err != nil {
			return false
		}
		p := parts{user: &user.User{Home: "/home/of/nobody"}}
		if path, failure := p.pathOf(part); failure == nil && strings.HasPrefix(path, prefix) && !strings.HasPrefix(path, "/home/of/nobody") {
			return true
		}
	}
}
