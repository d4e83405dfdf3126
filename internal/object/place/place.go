// Package place opens the object store that settings name: a folder, or a bucket of S3.
package place

import (
	"net/url"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
	"github.com/wrenn-sandbox/wrenn/internal/object/folder"
	"github.com/wrenn-sandbox/wrenn/internal/object/s3"
)

// Open opens what checked settings name. A folder is made where it is missing; of S3 nothing is asked yet.
func Open(cfg config.Objects) (object.Store, error) {
	if !cfg.InS3() {
		return folder.Open(cfg.Place)
	}
	endpoint, err := url.Parse(cfg.Endpoint)
	if err != nil {
		return nil, models.Errorf(models.Invalid, "s3_endpoint is no URL").WithCause(err)
	}
	o := s3.Options{Endpoint: endpoint.Host, Plain: endpoint.Scheme == "http", Region: cfg.Region, AccessKey: cfg.AccessKey, SecretKey: string(cfg.SecretKey)}
	o.Bucket, o.Prefix = cfg.Bucket()
	if cfg.Credentials != "" {
		keys, err := readCredentials(cfg.Credentials)
		if err != nil {
			return nil, err
		}
		o.AccessKey, o.SecretKey = keys.AccessKeyID, keys.SecretAccessKey
	}
	return s3.New(o)
}

func readCredentials(path string) (credentials.Value, error) {
	keys, err := credentials.NewFileAWSCredentials(path, "default").GetWithContext(nil)
	if err == nil && (keys.AccessKeyID == "" || keys.SecretAccessKey == "") {
		return keys, models.Errorf(models.Invalid, "s3_credentials: %s has no aws_access_key_id and aws_secret_access_key in its profile default", path)
	}
	if err != nil {
		return keys, models.Errorf(models.Invalid, "s3_credentials: %s cannot be read", path).WithCause(err)
	}
	return keys, nil
}
