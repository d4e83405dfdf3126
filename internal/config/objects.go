package config

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Objects says where the objects are that hosts share: what hibernated sandboxes are stored in.
type Objects struct {
	Place       string `yaml:"objects" env:"WRENN_OBJECTS"`                 // a folder, for a single host; s3://bucket or s3://bucket/prefix; empty: none
	Endpoint    string `yaml:"s3_endpoint" env:"WRENN_S3_ENDPOINT"`         // of the S3 server: https://host:port, or http:// without TLS
	Region      string `yaml:"s3_region" env:"WRENN_S3_REGION"`             // that requests are signed for
	AccessKey   string `yaml:"s3_access_key" env:"WRENN_S3_ACCESS_KEY"`     // both keys, or
	SecretKey   Secret `yaml:"s3_secret_key" env:"WRENN_S3_SECRET_KEY"`     //
	Credentials string `yaml:"s3_credentials" env:"WRENN_S3_CREDENTIALS"`   // a file with them in AWS's form (aws_access_key_id, aws_secret_access_key), profile default
	CacheMiB    int    `yaml:"chunk_cache_mib" env:"WRENN_CHUNK_CACHE_MIB"` // of the host's disk for what was fetched from S3; 0: none
}

// DefaultRegion is what servers of S3 other than Amazon's mostly call theirs.
const DefaultRegion = "us-east-1"

// DefaultCacheMiB holds the memories of some sandboxes.
const DefaultCacheMiB = 2048

// Secret prints as ***, so that it does not end up in a log.
type Secret string

// String returns ***.
func (Secret) String() string { return "***" }

// GoString returns ***.
func (Secret) GoString() string { return "***" }

// MarshalText returns ***.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

const s3Scheme = "s3://"

// InS3 tells whether the objects are in S3.
func (o Objects) InS3() bool { return strings.HasPrefix(o.Place, s3Scheme) }

// Bucket returns the bucket in S3, and what comes before every key in it: empty, or ending in '/'.
func (o Objects) Bucket() (bucket, prefix string) {
	bucket, prefix, _ = strings.Cut(strings.TrimPrefix(o.Place, s3Scheme), "/")
	if prefix = strings.TrimSuffix(prefix, "/"); prefix != "" {
		prefix += "/"
	}
	return bucket, prefix
}

var (
	bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	prefixForm = regexp.MustCompile(`^([a-zA-Z0-9][a-zA-Z0-9._-]*/)*$`)
)

// Check returns an Invalid error that names the first setting that makes no sense.
func (o Objects) Check() error {
	switch {
	case o.CacheMiB < 0:
		return models.Errorf(models.Invalid, "chunk_cache_mib must be 0 (none) or more, not %d", o.CacheMiB)
	case o.InS3():
		return o.checkS3()
	case o.Place != "" && !filepath.IsAbs(o.Place):
		return models.Errorf(models.Invalid, "objects must be an absolute path of a folder, or s3://bucket or s3://bucket/prefix, not %q", o.Place)
	case o.Endpoint != "":
		return models.Errorf(models.Invalid, "s3_endpoint is set, and objects names no bucket").WithHint("objects must be s3://bucket or s3://bucket/prefix")
	}
	return nil
}

func (o Objects) checkS3() error {
	bucket, prefix := o.Bucket()
	endpoint, err := url.Parse(o.Endpoint)
	switch {
	case !bucketForm.MatchString(bucket) || !prefixForm.MatchString(prefix):
		return models.Errorf(models.Invalid, "objects must be s3://bucket or s3://bucket/prefix, not %q", o.Place)
	case err != nil || endpoint.Scheme != "https" && endpoint.Scheme != "http" || endpoint.Host == "" || strings.Trim(endpoint.Path, "/") != "" || endpoint.User != nil:
		return models.Errorf(models.Invalid, "s3_endpoint must be https://host:port, or http:// for a server without TLS, and nothing more").
			WithHint("it is where the S3 server of the bucket %s is", bucket)
	case o.Region == "":
		return models.Errorf(models.Invalid, "s3_region must be set").WithHint("where the server has none, %s will do", DefaultRegion)
	case o.Credentials != "" && (o.AccessKey != "" || o.SecretKey != ""):
		return models.Errorf(models.Invalid, "s3_credentials and s3_access_key or s3_secret_key exclude each other")
	case o.Credentials == "" && (o.AccessKey == "" || o.SecretKey == ""):
		return models.Errorf(models.Invalid, "s3_access_key and s3_secret_key must both be set, or s3_credentials")
	}
	return nil
}
