package hostapi

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/wrenn-sandbox/wrenn/internal/metrics"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// TestMeter: calls are counted by what came of them, and a create tells of its steps.
func TestMeter(t *testing.T) {
	s := metrics.New("")
	m := NewMeter(s)
	call := func(method string, resp any, err error) {
		t.Helper()
		info := &grpc.UnaryServerInfo{FullMethod: "/wrenn.hostagent.v1.HostAgentService/" + method}
		got, gotErr := m.unary(t.Context(), nil, info, func(context.Context, any) (any, error) { return resp, err })
		if got != resp || gotErr != err {
			t.Errorf("%s: %v, %v", method, got, gotErr)
		}
	}
	made := &pb.CreateSandboxResponse{Sandbox: &pb.Sandbox{Steps: []*pb.Step{
		{Name: "restore_vm", Duration: durationpb.New(300 * time.Millisecond)}, {Name: "resume_guest", Duration: durationpb.New(20 * time.Millisecond)},
	}}}
	call("CreateSandbox", made, nil)
	call("CreateSandbox", (*pb.CreateSandboxResponse)(nil), models.Errorf(models.Exhausted, "no room"))
	call("PauseSandbox", &pb.PauseSandboxResponse{}, nil)
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
	for _, line := range []string{
		`wrenn_agent_calls_total{call="CreateSandbox",outcome="ok"} 1`, `wrenn_agent_calls_total{call="CreateSandbox",outcome="exhausted"} 1`, `wrenn_agent_calls_total{call="PauseSandbox",outcome="ok"} 1`,
		`wrenn_agent_call_duration_seconds_count{call="CreateSandbox"} 2`, `wrenn_agent_create_step_duration_seconds_count{step="restore_vm"} 1`,
		`wrenn_agent_create_step_duration_seconds_bucket{step="restore_vm",le="0.25"} 0`, `wrenn_agent_create_step_duration_seconds_bucket{step="resume_guest",le="0.025"} 1`,
	} {
		if !strings.Contains(rec.Body.String(), line+"\n") {
			t.Errorf("%s is not in\n%s", line, rec.Body)
		}
	}
}
