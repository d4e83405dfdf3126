package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

func TestObjectsFromFileAndEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wrenn.yaml")
	if err := os.WriteFile(path, []byte("objects: s3://sleep/wrenn/\ns3_endpoint: https://s3.example:9000\ns3_secret_key: file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(FileVariable, path)
	t.Setenv("WRENN_S3_ACCESS_KEY", "who")
	t.Setenv("WRENN_S3_SECRET_KEY", "hush")
	cfg, err := LoadAgent()
	if err != nil {
		t.Fatal(err)
	}
	o := cfg.Objects
	if bucket, prefix := o.Bucket(); bucket != "sleep" || prefix != "wrenn/" || !o.InS3() || o.SecretKey != "hush" || o.Region != DefaultRegion {
		t.Errorf("defaults < file < environment gave %q, %q", bucket, prefix)
	}
	if err := cfg.Check(); err != nil {
		t.Errorf("Check: %v", err)
	}
	asJSON, err := json.Marshal(o)
	if said := fmt.Sprintf("%v %+v %#v %s %s", cfg, o, o, o.SecretKey, asJSON); err != nil || strings.Contains(said, "hush") {
		t.Errorf("the secret is in %s, %v", said, err)
	}
}

func TestWrongObjectsAreNamed(t *testing.T) {
	t.Setenv(FileVariable, "")
	for name, c := range map[string]struct {
		change func(*Objects)
		says   string
	}{
		"relative folder":       {func(o *Objects) { o.Place = "objects" }, "objects"},
		"another scheme":        {func(o *Objects) { o.Place = "gs://bucket" }, "objects"},
		"no bucket":             {func(o *Objects) { o.Place = "s3://" }, "objects"},
		"odd prefix":            {func(o *Objects) { o.Place = "s3://bucket/../x" }, "objects"},
		"endpoint, no bucket":   {func(o *Objects) { o.Place = "/srv/objects" }, "names no bucket"},
		"no endpoint":           {func(o *Objects) { o.Endpoint = "" }, "s3_endpoint"},
		"endpoint with a path":  {func(o *Objects) { o.Endpoint = "https://s3.example/bucket" }, "s3_endpoint"},
		"endpoint with a key":   {func(o *Objects) { o.Endpoint = "https://me:hush@s3.example" }, "s3_endpoint"},
		"endpoint, bare":        {func(o *Objects) { o.Endpoint = "s3.example:9000" }, "s3_endpoint"},
		"no region":             {func(o *Objects) { o.Region = "" }, "s3_region"},
		"half the credentials":  {func(o *Objects) { o.SecretKey = "" }, "s3_secret_key"},
		"credentials both ways": {func(o *Objects) { o.Credentials = "/x" }, "s3_credentials"},
		"cache":                 {func(o *Objects) { o.CacheMiB = -1 }, "chunk_cache_mib"},
	} {
		cfg, err := LoadAgent()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Objects = Objects{Place: "s3://bucket", Endpoint: "http://127.0.0.1:9000", Region: DefaultRegion, AccessKey: "me", SecretKey: "hush"}
		if err := cfg.Check(); err != nil {
			t.Errorf("%s, before: %v", name, err)
		}
		c.change(&cfg.Objects)
		if err := cfg.Check(); models.CodeOf(err) != models.Invalid || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: Check returned %v", name, err)
		}
	}
}
