// Package s3 is an object store on a server that speaks S3.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/object"
)

// Options say where the objects are.
type Options struct {
	Endpoint  string // host:port
	Plain     bool   // http instead of https
	Region    string
	Bucket    string // must exist
	Prefix    string // before every key; empty, or ends in "/"
	AccessKey string
	SecretKey string
	Transport http.RoundTripper // nil: the client's own
	Timeout   time.Duration     // of one call with its retries; 0: a minute
}

// retries of a request that failed in a way that may pass; they wait up to a second each.
const retries = 5

// Store is a bucket, or a part of one. It may be used by any number at the same time.
type Store struct {
	client         *minio.Client
	bucket, prefix string
	timeout        time.Duration
}

var _ object.Store = (*Store)(nil)

// New asks nothing of the server: that it is there shows with the first call.
func New(o Options) (*Store, error) {
	if o.Transport == nil {
		transport, err := minio.DefaultTransport(!o.Plain)
		if err != nil {
			return nil, fmt.Errorf("connect to S3: %w", err)
		}
		transport.MaxIdleConnsPerHost = 64 // as many chunks are on their way at the same time
		o.Transport = transport
	}
	client, err := minio.New(o.Endpoint, &minio.Options{
		Creds: credentials.NewStaticV4(o.AccessKey, o.SecretKey, ""), Secure: !o.Plain, Region: o.Region,
		Transport: fence{o.Transport}, MaxRetries: retries,
	})
	if err != nil {
		return nil, models.Errorf(models.Invalid, "the address of the S3 server %q", o.Endpoint).WithCause(err)
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	return &Store{client, o.Bucket, o.Prefix, o.Timeout}, nil
}

// fence lets no request go out that was signed after its deadline. It looks after the signing: what passes is signed before the deadline,
// and the server refuses it when that is too long ago. So a process that was stopped anywhere has no late effect.
type fence struct{ next http.RoundTripper }

func (f fence) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := object.InTime(r.Context()); err != nil {
		return nil, err
	}
	return f.next.RoundTrip(r)
}

// Put sends one request.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	ctx, cancel, err := s.call(ctx, key)
	if err != nil {
		return err
	}
	defer cancel()
	_, err = s.client.PutObject(ctx, s.bucket, s.prefix+key, bytes.NewReader(data), int64(len(data)),
		minio.PutObjectOptions{ContentType: "application/octet-stream", DisableMultipart: true})
	return coded(key, err)
}

// Get reads the whole object, and again from the start where the connection broke.
func (s *Store) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	ctx, cancel, err := s.call(ctx, key)
	if err != nil {
		return nil, err
	}
	defer cancel()
	o, err := s.client.GetObject(ctx, s.bucket, s.prefix+key, minio.GetObjectOptions{})
	if err != nil {
		return nil, coded(key, err)
	}
	defer o.Close()
	data, err := io.ReadAll(io.LimitReader(o, limit+1))
	if int64(len(data)) > limit {
		return nil, object.TooLong(key, limit)
	}
	return data, coded(key, err)
}

// Stat sends a HEAD.
func (s *Store) Stat(ctx context.Context, key string) (object.Info, error) {
	ctx, cancel, err := s.call(ctx, key)
	if err != nil {
		return object.Info{}, err
	}
	defer cancel()
	o, err := s.client.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{})
	return object.Info{Key: key, Size: o.Size, Modified: o.LastModified}, coded(key, err)
}

// List asks for pages of a thousand. Its time is the caller's: a listing may be long.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		ctx, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel() // and ends what minio-go does in the background
		for o := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}) {
			if o.Err != nil {
				yield(object.Info{}, coded(prefix, o.Err))
				return
			}
			if !yield(object.Info{Key: strings.TrimPrefix(o.Key, s.prefix), Size: o.Size, Modified: o.LastModified}, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(object.Info{}, coded(prefix, err))
		}
	}
}

// Delete sends one request.
func (s *Store) Delete(ctx context.Context, key string) error {
	ctx, cancel, err := s.call(ctx, key)
	if err != nil {
		return err
	}
	defer cancel()
	err = coded(key, s.client.RemoveObject(ctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{}))
	if err != nil && models.CodeOf(err) == models.NotFound {
		return nil
	}
	return err
}

// call checks the key and gives a call its time.
func (s *Store) call(ctx context.Context, key string) (context.Context, context.CancelFunc, error) {
	if err := object.CheckKey(key); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	return ctx, cancel, nil
}

// noSuchUser is what versitygw calls an access key that it does not know.
const noSuchUser = "XAdminUserNotFound"

// coded says in our words what the server or the way to it answered.
func coded(key string, err error) error {
	var answer minio.ErrorResponse
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return models.Errorf(models.Deadline, "the object store did not answer in time").WithCause(fmt.Errorf("%s: %w", key, err))
	case errors.Is(err, context.Canceled):
		return err
	case !errors.As(err, &answer):
		return models.Errorf(models.Unavailable, "the object store cannot be reached").WithCause(fmt.Errorf("%s: %w", key, err))
	}
	switch answer.Code {
	case minio.NoSuchKey:
		return object.Missing(key, err)
	case minio.NoSuchBucket:
		return models.Errorf(models.Precondition, "the object store has no bucket of the name that is configured").WithCause(err)
	case "RequestTimeTooSkewed":
		return models.Errorf(models.Precondition, "the clocks of this host and of the object store differ by more than 15 minutes").WithCause(err)
	case "QuotaExceeded", "XMinioStorageFull", "InsufficientStorage":
		return models.Errorf(models.Exhausted, "the object store is full").WithCause(err)
	}
	if answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusUnauthorized || answer.Code == noSuchUser {
		return models.Errorf(models.Precondition, "the object store refuses the access key that is configured").WithCause(err)
	}
	return models.Errorf(models.Unavailable, "the object store failed").WithCause(fmt.Errorf("%s: %w", key, err))
}
