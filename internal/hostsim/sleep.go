package hostsim

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// OnSleep has before called at the begin of each pause and resume, with the sandbox as it is on its way, whose error is the call's and undoes it, and
// after at its end, before it is answered. Either may be nil.
func (h *Host) OnSleep(before func(context.Context, *pb.Sandbox) error, after func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sleeping, h.slept = before, after
}

// Sleeps returns how many pauses and resumes the host has carried out.
func (h *Host) Sleeps() (pauses, resumes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pauses, h.resumes
}

// Scrubbed has a sandbox be one whose snapshot was read: when it was found whole, and what is wrong with it.
func (h *Host) Scrubbed(sandbox string, verified *timestamppb.Timestamp, damage string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sb := h.sandboxes[sandbox]
	sb.VerifiedAt, sb.Damage = verified, damage
	h.publish(sb)
}

// PauseSandbox implements HostAgentService.
func (h *Host) PauseSandbox(ctx context.Context, req *pb.PauseSandboxRequest) (*pb.PauseSandboxResponse, error) {
	sb, err := h.sleep(ctx, req.GetSandboxId(), pb.SandboxState_SANDBOX_STATE_RUNNING, pb.SandboxState_SANDBOX_STATE_PAUSING, pb.SandboxState_SANDBOX_STATE_PAUSED)
	return &pb.PauseSandboxResponse{Sandbox: sb}, err
}

// ResumeSandbox implements HostAgentService.
func (h *Host) ResumeSandbox(ctx context.Context, req *pb.ResumeSandboxRequest) (*pb.ResumeSandboxResponse, error) {
	h.awaitStored(ctx, req.GetSandboxId())
	sb, err := h.sleep(ctx, req.GetSandboxId(), pb.SandboxState_SANDBOX_STATE_PAUSED, pb.SandboxState_SANDBOX_STATE_RESUMING, pb.SandboxState_SANDBOX_STATE_RUNNING)
	return &pb.ResumeSandboxResponse{Sandbox: sb}, err
}

// sleep brings a sandbox from one state through another to a third.
func (h *Host) sleep(ctx context.Context, sandbox string, from, by, to pb.SandboxState) (*pb.Sandbox, error) {
	now, err := h.move(sandbox, from, by, to)
	if err != nil || now.GetState() == to {
		return now, err
	}
	h.mu.Lock()
	before, after := h.sleeping, h.slept
	h.mu.Unlock()
	if before != nil {
		if err := before(ctx, now); err != nil {
			_, _ = h.move(sandbox, by, from, from) // one that is gone or has failed stays so
			return nil, err
		}
	}
	if now, err = h.move(sandbox, by, to, from); err == nil && after != nil {
		after()
	}
	return now, err
}

// move changes the state of a sandbox from one to another; one that is in the state already stays as it is.
func (h *Host) move(sandbox string, from, to, already pb.SandboxState) (*pb.Sandbox, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sb, ok := h.sandboxes[sandbox]
	switch {
	case !ok:
		return nil, missing(sandbox)
	case sb.GetState() == already:
		return proto.CloneOf(sb), nil
	case sb.GetState() != from:
		return nil, models.Errorf(models.Precondition, "sandbox %s is %s", sandbox, sb.GetState())
	}
	sb.State = to
	switch {
	case to == pb.SandboxState_SANDBOX_STATE_PAUSED && from == pb.SandboxState_SANDBOX_STATE_PAUSING:
		h.pauses++
		h.cut(sandbox)
	case to == pb.SandboxState_SANDBOX_STATE_RUNNING && from == pb.SandboxState_SANDBOX_STATE_RESUMING:
		h.resumes++
		sb.Archive = nil
		sb.Certificate, sb.VerifiedAt, sb.Damage = certificate(), nil, ""
	}
	h.publish(sb)
	return proto.CloneOf(sb), nil
}

func certificate() *pb.Certificate {
	took := durationpb.New(time.Millisecond)
	return &pb.Certificate{At: timestamppb.Now(), Steps: []*pb.CertificateStep{
		{Name: "clock", Duration: took}, {Name: "machine_id", Kept: true, Duration: took}, {Name: "hook:10-hello", Output: "hello", Duration: took},
	}}
}
