package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// errorBody is the schema ErrorBody.
type errorBody struct {
	Code      models.Code `json:"code"`
	Message   string      `json:"message"`
	Hint      string      `json:"hint,omitempty"`
	RequestID string      `json:"request_id"`
}

// statusError is an error whose HTTP status says more than its code.
type statusError struct {
	coded  *models.Error
	status int
}

// Error returns the coded error's text.
func (e *statusError) Error() string { return e.coded.Error() }

// Unwrap returns the coded error.
func (e *statusError) Unwrap() error { return e.coded }

func withStatus(status int, e *models.Error) error { return &statusError{coded: e, status: status} }

// status is the one adapter from codes to HTTP.
func status(err error) int {
	var special *statusError
	if errors.As(err, &special) {
		return special.status
	}
	switch models.CodeOf(err) {
	case models.Invalid:
		return http.StatusBadRequest
	case models.Unauthenticated:
		return http.StatusUnauthorized
	case models.Forbidden:
		return http.StatusForbidden
	case models.NotFound:
		return http.StatusNotFound
	case models.Conflict, models.Precondition:
		return http.StatusConflict
	case models.Exhausted:
		return http.StatusTooManyRequests
	case models.Unavailable:
		return http.StatusServiceUnavailable
	case models.Deadline:
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

func body(r *http.Request, err error) errorBody {
	e := models.AsError(told(r.Context(), err))
	return errorBody{Code: e.Code, Message: e.Message, Hint: e.Hint, RequestID: aboutOf(r.Context()).requestID}
}

func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	err = told(r.Context(), err)
	aboutOf(r.Context()).cause = err
	code := status(err)
	if code == http.StatusServiceUnavailable && !models.AsError(err).Final {
		w.Header().Set("Retry-After", "2")
	}
	s.writeJSON(w, code, struct {
		Error errorBody `json:"error"`
	}{body(r, err)})
}

// writeJSON sends v as the answer. A client that has gone, or does not read, needs none.
func (s *Server) writeJSON(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // every v is a struct of ours that can be encoded
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.Limits.Idle)) // unsupported only in unit tests
	_, _ = w.Write(append(b, '\n'))
}

// apiTime is a time as the API writes it: RFC 3339, UTC, milliseconds; null for zero.
type apiTime time.Time

// MarshalJSON implements json.Marshaler.
func (t apiTime) MarshalJSON() ([]byte, error) {
	if time.Time(t).IsZero() {
		return []byte("null"), nil
	}
	return []byte(time.Time(t).UTC().Format(`"2006-01-02T15:04:05.000Z07:00"`)), nil
}

// orNull is null for the zero value, for what is not known.
func orNull[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
