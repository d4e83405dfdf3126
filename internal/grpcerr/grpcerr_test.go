package grpcerr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	hostagentv1 "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

func TestRoundTrip(t *testing.T) {
	all := map[models.Code]codes.Code{
		models.Invalid: codes.InvalidArgument, models.Unauthenticated: codes.Unauthenticated,
		models.Forbidden: codes.PermissionDenied, models.NotFound: codes.NotFound,
		models.Conflict: codes.Aborted, models.Precondition: codes.FailedPrecondition,
		models.Exhausted: codes.ResourceExhausted, models.Unavailable: codes.Unavailable,
		models.Deadline: codes.DeadlineExceeded, models.Internal: codes.Internal,
	}
	for code, want := range all {
		sent := models.Errorf(code, "message %s", code).WithHint("hint").WithCause(errors.New("secret"))
		wire := Encode(fmt.Errorf("outer: %w", sent))
		if got := status.Code(wire); got != want {
			t.Errorf("%s travels as %s, want %s", code, got, want)
		}
		if strings.Contains(wire.Error(), "secret") {
			t.Errorf("%s: the cause left the process: %v", code, wire)
		}
		got := models.AsError(Decode(wire))
		if got.Code != code || got.Message != sent.Message || got.Hint != "hint" {
			t.Errorf("%s came back as %+v", code, got)
		}
		if !FromAgent(got) {
			t.Errorf("%s: FromAgent = false", code)
		}
	}
}

func TestEncodeUncoded(t *testing.T) {
	if Encode(nil) != nil {
		t.Error("Encode(nil) is an error")
	}
	got := models.AsError(Decode(Encode(errors.New("open /etc/shadow"))))
	if got.Code != models.Internal || got.Message != "internal error" {
		t.Errorf("an uncoded error reached the other side as %+v", got)
	}
	if got := models.CodeOf(Decode(Encode(context.DeadlineExceeded))); got != models.Deadline {
		t.Errorf("an ended context came back as %s", got)
	}
}

func TestDecodeTransport(t *testing.T) {
	for c, want := range map[codes.Code]models.Code{
		codes.Unavailable: models.Unavailable, codes.Canceled: models.Unavailable,
		codes.DeadlineExceeded: models.Deadline, codes.Unimplemented: models.Internal,
		codes.ResourceExhausted: models.Internal, codes.Unknown: models.Internal,
	} {
		err := Decode(status.Error(c, "dial unix /run/x.sock"))
		got := models.AsError(err)
		if got.Code != want || strings.Contains(got.Message, "/run") || FromAgent(err) {
			t.Errorf("%s: %+v, from agent %v; want code %s, no detail", c, got, FromAgent(err), want)
		}
	}
	if models.CodeOf(Decode(errors.New("x"))) != models.Internal {
		t.Error("an error that is no status is not internal")
	}
}

func TestDecodeLeavesAlone(t *testing.T) {
	coded := models.Errorf(models.Conflict, "x")
	for _, err := range []error{nil, io.EOF, coded} {
		if got := Decode(err); got != err { // the very same
			t.Errorf("Decode(%v) = %v", err, got)
		}
	}
}

func TestDecodeUnknownCode(t *testing.T) {
	st, err := status.New(codes.NotFound, "m").WithDetails(&hostagentv1.ErrorDetail{Code: "no_such_code", Message: "m"})
	if err != nil {
		t.Fatal(err)
	}
	got := models.AsError(Decode(st.Err()))
	if got.Code != models.Internal || FromAgent(got) {
		t.Errorf("a detail with an unknown code gave %+v", got)
	}
}

func TestEndOfTheCallIsTheTransports(t *testing.T) {
	over, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	for _, test := range []struct {
		name      string
		ctx       context.Context
		err       error
		fromAgent bool
	}{
		{"the call's end", over, fmt.Errorf("wait: %w", over.Err()), false},
		{"an error of the agent's that came late", over, models.Errorf(models.Deadline, "not ready").WithCause(over.Err()), true},
		{"a deadline of the agent's own", t.Context(), context.DeadlineExceeded, true},
	} {
		err := Decode(EncodeLogged(test.ctx, log, "m", test.err))
		if models.CodeOf(err) != models.Deadline || FromAgent(err) != test.fromAgent {
			t.Errorf("%s: %v, from agent %v", test.name, err, FromAgent(err))
		}
	}
}
