// Package object is the contract of an object store: whole small objects under keys, as S3 has them.
//
// Package s3 keeps it with any server that speaks S3, package folder with a folder, and objecttest holds either to it.
package object

import (
	"context"
	"iter"
	"regexp"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// Info is what is known of an object without reading it.
type Info struct {
	Key      string
	Size     int64
	Modified time.Time // when it was put, by the store's own clock; whole seconds in S3
}

// Store keeps objects. All that a call does is seen by every call, on any host, that begins after it returned. A call that
// returned an error may have had its effect or not; one that was cut off may still have it later, but not later than Lag behind the deadline
// of its ctx, however long the caller was stopped and the request was on its way.
//
// Errors are coded: NotFound of a key that is not there, Invalid of a key that CheckKey refuses, Precondition of a store that is set up
// wrongly, Exhausted of one that is full, Unavailable or Deadline of one that does not answer.
type Store interface {
	// Put makes data the whole content of key, in one step, in the place of what was there, and returns when it will last.
	Put(ctx context.Context, key string, data []byte) error
	// Get returns the content. One longer than limit is an error of code Precondition.
	Get(ctx context.Context, key string, limit int64) ([]byte, error)
	Stat(ctx context.Context, key string) (Info, error)
	// List returns what begins with prefix, in order. What is there during the whole of the listing is in it; the last pair may be an error.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes an object, and succeeds if it is not there.
	Delete(ctx context.Context, key string) error
}

// Lag is how long behind its deadline a call may still have its effect. A server of S3 refuses a request whose signature is 15
// minutes old by its own clock (RequestTimeTooSkewed), and as much may the clocks differ; the rest is for the server to do it.
const Lag = 45 * time.Minute

var keyForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*$`)

// CheckKey refuses what is not a key on every store: lower-case letters, digits, '-' and '.' in parts between '/', none of which begins with '.' or '-';
// at most 512 characters.
func CheckKey(key string) error {
	if len(key) > 512 || !keyForm.MatchString(key) {
		return models.Errorf(models.Invalid, "%q is no key for an object", key)
	}
	return nil
}

// Missing is the error of a key that is not there.
func Missing(key string, cause error) error {
	return models.Errorf(models.NotFound, "the object store has no %s", key).WithCause(cause)
}

// TooLong is the error of an object that is longer than its reader allows.
func TooLong(key string, limit int64) error {
	return models.Errorf(models.Precondition, "%s in the object store is longer than %d bytes", key, limit)
}

// InTime fails once ctx has ended, or its deadline is over by the wall clock, which goes on while a process, or its whole machine, is stopped.
func InTime(ctx context.Context) error {
	deadline, set := ctx.Deadline()
	if set && !time.Now().Round(0).Before(deadline.Round(0)) { // Round drops the monotonic reading
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
