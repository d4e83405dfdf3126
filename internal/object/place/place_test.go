package place

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3/s3test"
)

// TestOpen: what is put through the settings lies in the folder, or below the bucket's prefix.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	server := s3test.ForTest(t)
	o := server.Options()
	credentials := filepath.Join(dir, "credentials")
	if err := os.WriteFile(credentials, []byte("[default]\naws_access_key_id="+o.AccessKey+"\naws_secret_access_key="+o.SecretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	inS3 := config.Objects{Place: "s3://" + o.Bucket + "/some/prefix", Endpoint: "http://" + o.Endpoint, Region: o.Region}
	byKeys, byFile, wrong := inS3, inS3, inS3
	byKeys.AccessKey, byKeys.SecretKey = o.AccessKey, config.Secret(o.SecretKey)
	byFile.Credentials = credentials
	wrong.AccessKey, wrong.SecretKey = o.AccessKey, "wrong"
	for name, c := range map[string]struct {
		cfg   config.Objects
		place string
	}{
		"folder":   {config.Objects{Place: filepath.Join(dir, "objects")}, filepath.Join(dir, "objects", "a")},
		"S3":       {byKeys, filepath.Join(server.Folder(), "some/prefix/a")},
		"S3, file": {byFile, filepath.Join(server.Folder(), "some/prefix/a")},
	} {
		store, err := Open(c.cfg)
		if err == nil {
			err = store.Put(t.Context(), "a", []byte("x"))
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(c.place); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	store, err := Open(wrong)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), "a", nil); models.CodeOf(err) != models.Precondition {
		t.Errorf("a wrong key: %v", err)
	}
	for name, text := range map[string]string{"no file": "", "no keys": "[default]\n"} {
		path := filepath.Join(dir, name)
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		byFile.Credentials = path
		if _, err := Open(byFile); models.CodeOf(err) != models.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
