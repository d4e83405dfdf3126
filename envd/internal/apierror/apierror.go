// Package apierror is the error of envd's plain HTTP routes: a status and the JSON body
// {"code":<status>,"message":"…"} that clients of E2B's envd protocol expect.
package apierror

import (
	"encoding/json"
	"fmt"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
)

// HeaderReason is a response header that tells apart what a status alone does not.
const HeaderReason = "Wrenn-Reason"

// ReasonUnknownUser is the reason of a 401 that is about the account a request names, not
// about the caller's token.
const ReasonUnknownUser = "unknown_user"

// Error is an error for the caller; Message is complete and safe to show.
type Error struct {
	Status  int
	Message string
	Reason  string // value of HeaderReason, or empty
}

// New returns an error with a formatted message.
func New(status int, format string, args ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return e.Message }

// Write answers a request with e. Nothing may have been written before.
func (e *Error) Write(w http.ResponseWriter) {
	body, _ := json.Marshal(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{e.Status, e.Message}) // a number and a string always encode
	header := w.Header()
	header.Set("Content-Type", "application/json; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	if e.Reason != "" {
		header.Set(HeaderReason, e.Reason)
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(append(body, '\n')) // the caller is gone if this fails
}
