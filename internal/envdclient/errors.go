package envdclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// maxText is how much of the guest's own words goes into an error.
const maxText = 500

// errSilent is the cause of a context that ended because the guest kept silent for too long.
var errSilent = errors.New("the guest was silent for too long")

// clean makes text from the guest fit to be shown: valid, in one line, not endless.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if runes := []rune(text); len(runes) > maxText {
		text = string(runes[:maxText]) + "…"
	}
	return strings.TrimSpace(text)
}

func guestError(code models.Code, text string, cause error) *models.Error {
	if text = clean(text); text == "" {
		text = "the sandbox's guest gives no reason"
	}
	return models.Errorf(code, "%s", text).WithCause(cause)
}

// contextError explains the end of a call's context; nil if it has not ended.
func contextError(ctx context.Context) *models.Error {
	cause := context.Cause(ctx)
	switch {
	case cause == nil:
		return nil
	case errors.Is(cause, errSilent):
		return models.Errorf(models.Unavailable, "the sandbox's guest does not answer").WithCause(cause)
	case errors.Is(cause, errClosed):
		return models.Errorf(models.Unavailable, "the sandbox's guest is gone").WithCause(cause)
	}
	return models.AsError(cause)
}

// transportError explains why a request got no sensible answer.
func transportError(ctx context.Context, err error) *models.Error {
	if ended := contextError(ctx); ended != nil {
		return ended
	}
	var coded *models.Error
	if errors.As(err, &coded) { // from Dial, or from the reader of an upload
		return coded
	}
	return models.Errorf(models.Unavailable, "the sandbox's guest does not answer").WithCause(err)
}

// rpcError translates the error of a Connect call.
func rpcError(ctx context.Context, err error) *models.Error {
	var remote *connect.Error
	if !errors.As(err, &remote) || !said(remote) {
		return transportError(ctx, err)
	}
	return guestError(rpcCode(remote), remote.Message(), err)
}

// said reports whether an error is envd's own, not the library's about an answer that is no answer.
// A refused token is a plain HTTP status, which only the library puts into words.
func said(err *connect.Error) bool {
	return connect.IsWireError(err) || err.Code() == connect.CodeUnauthenticated
}

func rpcCode(remote *connect.Error) models.Code {
	switch remote.Code() {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return models.Invalid
	case connect.CodeNotFound:
		return models.NotFound
	case connect.CodeAlreadyExists:
		return models.Conflict
	case connect.CodeFailedPrecondition, connect.CodeAborted:
		return models.Precondition
	case connect.CodeResourceExhausted:
		return models.Exhausted
	case connect.CodePermissionDenied:
		return models.Forbidden
	case connect.CodeDeadlineExceeded:
		return models.Deadline
	case connect.CodeUnavailable, connect.CodeCanceled:
		return models.Unavailable
	case connect.CodeUnauthenticated:
		return unauthenticated(remote.Meta())
	default:
		return models.Internal
	}
}

// unauthenticated tells an account that does not exist, the caller's mistake, from a token that
// the guest refuses, ours.
func unauthenticated(header http.Header) models.Code {
	if header.Get(headerReason) == reasonUnknownUser {
		return models.Invalid
	}
	return models.Internal
}

// statusError translates an answer other than 2xx of the plain HTTP routes.
func statusError(resp *http.Response) *models.Error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // a part is better than nothing
	var said struct {
		Message string `json:"message"`
	}
	_ = json.Unmarshal(body, &said) // what is no JSON has no message
	cause := fmt.Errorf("status %d from envd", resp.StatusCode)
	return guestError(statusCode(resp), said.Message, cause)
}

func statusCode(resp *http.Response) models.Code {
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusRequestedRangeNotSatisfiable, http.StatusUnsupportedMediaType:
		return models.Invalid
	case http.StatusUnauthorized:
		return unauthenticated(resp.Header)
	case http.StatusForbidden:
		return models.Forbidden
	case http.StatusNotFound:
		return models.NotFound
	case http.StatusInsufficientStorage, http.StatusTooManyRequests:
		return models.Exhausted
	case http.StatusServiceUnavailable:
		return models.Unavailable
	}
	return models.Internal
}
