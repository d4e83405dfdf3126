package filesystem_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/filesystem"
)

// FuzzImport: whatever an image's manifest says, what is imported lies in the store's folder of images, two levels deep, and nothing
// else is made or changed beside the store.
func FuzzImport(f *testing.F) {
	f.Add("python311", digestA, "")
	f.Add("..", "sha256:../../../x", "")
	f.Add("a/../../b", "........", "")
	f.Add("a", "current0", `{"name":"a","digest":"aaaaaaaa","disk_mib":1e99}`)
	f.Fuzz(func(t *testing.T, name, digest, manifest string) {
		outer := t.TempDir()
		dir, src := filepath.Join(outer, "store"), filepath.Join(outer, "src")
		text, err := json.Marshal(filesystem.Manifest{Name: name, Digest: digest, DiskMiB: 1})
		if err != nil {
			t.Fatal(err)
		}
		if manifest != "" {
			text = []byte(manifest)
		}
		store := openStore(t, dir, nil)
		put := func(name string, text []byte) {
			if err := os.WriteFile(filepath.Join(src, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(src, 0o700); err != nil {
			t.Fatal(err)
		}
		put(filesystem.ManifestName, text)
		put(filesystem.RootfsName, make([]byte, 1<<20))
		template, err := store.Import(t.Context(), src)
		wantNames(t, outer, "src", "store")
		wantNames(t, dir, "images")
		if err != nil {
			return
		}
		rel, err := filepath.Rel(filepath.Join(dir, "images"), template.Rootfs)
		if err != nil || !filepath.IsLocal(rel) || strings.Count(rel, "/") != 2 || filepath.Dir(filepath.Dir(rel)) != template.Name {
			t.Errorf("%q, %q was imported to %s", name, digest, template.Rootfs)
		}
		if _, err := store.Template(template.Name); err != nil {
			t.Errorf("%q cannot be found again: %v", template.Name, err)
		}
	})
}
