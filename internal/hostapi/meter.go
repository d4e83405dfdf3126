package hostapi

import (
	"context"
	"path"
	"time"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/metrics"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// Meter counts and times calls. The zero value does not.
type Meter struct {
	calls     metrics.Counter
	durations metrics.Timer
	steps     metrics.Timer
}

// NewMeter returns a meter that s tells of.
func NewMeter(s *metrics.Set) Meter {
	return Meter{
		calls:     s.Counter("agent_calls_total", "Calls of control planes that have ended, by call and outcome: ok, or the code of the error.", "call", "outcome"),
		durations: s.Timer("agent_call_duration_seconds", "How long those took, whatever came of them: CreateSandbox, PauseSandbox, ResumeSandbox and so on.", "call"),
		steps:     s.Timer("agent_create_step_duration_seconds", "How long each step of a create took that has succeeded. Which steps there are says which way it went: a boot, a restore, or a VM that waited.", "step"),
	}
}

// unary takes in a call and, of a create, its steps.
func (m Meter) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	began := time.Now()
	resp, err := next(ctx, req)
	call, outcome := path.Base(info.FullMethod), "ok"
	if err != nil {
		outcome = string(models.CodeOf(err))
	}
	m.calls.Add(1, call, outcome)
	m.durations.Observe(time.Since(began), call)
	if made, is := resp.(*pb.CreateSandboxResponse); is && err == nil {
		for _, step := range made.GetSandbox().GetSteps() {
			m.steps.Observe(step.GetDuration().AsDuration(), step.GetName())
		}
	}
	return resp, err
}
