package processrpc

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
)

// In this protocol Connect-Timeout-Ms of a Start limits the process, which must be killed and
// reported on when it runs out. The connect library would end the call at that moment, before there is
// anything to report; so the header is taken out of its sight.

const headerTimeout = "Connect-Timeout-Ms"

// maxTimeoutDigits is the Connect protocol's limit: 10 digits, 115 days.
const maxTimeoutDigits = 10

type timeoutKey struct{}

// ownTimeout moves the timeout header of a Start into the request's context.
func ownTimeout(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if value := r.Header.Get(headerTimeout); value != "" && r.URL.Path == processconnect.ProcessStartProcedure {
			r.Header.Del(headerTimeout)
			r = r.WithContext(context.WithValue(r.Context(), timeoutKey{}, value))
		}
		next.ServeHTTP(w, r)
	})
}

// timeoutOf returns the request's timeout, 0 for none.
func timeoutOf(ctx context.Context) (time.Duration, error) {
	value, _ := ctx.Value(timeoutKey{}).(string)
	if value == "" {
		return 0, nil
	}
	ms, err := strconv.ParseUint(value, 10, 63)
	if err != nil || len(value) > maxTimeoutDigits {
		return 0, errors.New("Connect-Timeout-Ms must be a number of at most 10 digits")
	}
	return time.Duration(ms) * time.Millisecond, nil
}
