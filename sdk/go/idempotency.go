package wrenn

import (
	"context"
	"crypto/rand"
	"net/http"
)

// Every call that changes something carries an idempotency key, unless its body or its answer is a stream: repeated with the same key, it is carried out
// once, and has the same answer for 24 hours. The client makes a key for each call and repeats the call where the service may not have got it, or
// its answer was lost.

type idempotencyContext struct{}

// WithIdempotencyKey has the one call that ctx is given to use key in place of one that the client makes, so that it can be repeated by a caller that was
// itself started anew. A key is 1 to 255 visible ASCII characters, and is for one call with the same parameters. With an empty one the call has none, and is
// not repeated once the service may have got it.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyContext{}, key)
}

// idempotencyKey is the key that a request is sent with; "" for none.
func idempotencyKey(ctx context.Context, req request) string {
	switch {
	case req.method == http.MethodGet || req.method == http.MethodPut || req.stream != nil || req.accept == "text/event-stream":
		return ""
	case ctx.Value(idempotencyContext{}) != nil:
		return ctx.Value(idempotencyContext{}).(string)
	}
	return rand.Text()
}
