package hostsim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// Objects is an object store of simulated hosts: the snapshots in it, by key.
type Objects struct {
	mu          sync.Mutex // guards all of the following
	stored      map[string]*pb.Sandbox
	down        error
	keys        int
	damaged     map[string]string
	collections int
}

// NewObjects returns an empty one.
func NewObjects() *Objects { return &Objects{stored: map[string]*pb.Sandbox{}} }

// Down has every call fail with err, until it is nil.
func (o *Objects) Down(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down = err
}

// Keys returns what is stored.
func (o *Objects) Keys() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(maps.Keys(o.stored))
}

// Leave puts something under a key, as a call does that broke off.
func (o *Objects) Leave(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stored[key] = &pb.Sandbox{}
}

// Damage has what is stored under a key be damaged, in these words; "" for whole.
func (o *Objects) Damage(key, words string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.damaged == nil {
		o.damaged = map[string]string{}
	}
	o.damaged[key] = words
}

// Collections returns how many there were.
func (o *Objects) Collections() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.collections
}

// Share has the host reach the objects of another.
func (h *Host) Share(other *Host) { h.objects = other.objects }

// Objects is what the host can reach.
func (h *Host) Objects() *Objects { return h.objects }

// OnStore has before called during each store and each fetch, with the sandbox as it is on its way, whose error is the call's and undoes it; and release at the begin
// of each release. Either may be nil.
func (h *Host) OnStore(before func(context.Context, *pb.Sandbox) error, release func(context.Context, string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.storing, h.released = before, release
}

// archiveServer is the host's ArchiveService.
type archiveServer struct {
	pb.UnimplementedArchiveServiceServer
	h *Host
}

// CheckArchive implements ArchiveService.
func (s archiveServer) CheckArchive(context.Context, *pb.CheckArchiveRequest) (*pb.CheckArchiveResponse, error) {
	s.h.objects.mu.Lock()
	defer s.h.objects.mu.Unlock()
	return &pb.CheckArchiveResponse{}, s.h.objects.down
}

// VerifyArchive implements ArchiveService.
func (s archiveServer) VerifyArchive(_ context.Context, req *pb.VerifyArchiveRequest) (*pb.VerifyArchiveResponse, error) {
	s.h.objects.mu.Lock()
	defer s.h.objects.mu.Unlock()
	return &pb.VerifyArchiveResponse{Damage: s.h.objects.damaged[req.GetKey()]}, s.h.objects.down
}

// StoreSandbox implements ArchiveService.
func (s archiveServer) StoreSandbox(ctx context.Context, req *pb.StoreSandboxRequest) (*pb.StoreSandboxResponse, error) {
	h, paused, storing := s.h, pb.SandboxState_SANDBOX_STATE_PAUSED, pb.SandboxState_SANDBOX_STATE_STORING
	now, err := h.move(req.GetSandboxId(), paused, storing, storing)
	if err != nil {
		return nil, err
	}
	if err := h.storingHook()(ctx, now); err != nil {
		_, _ = h.move(req.GetSandboxId(), storing, paused, paused)
		return nil, err
	}
	archive, err := h.objects.put(now)
	if err != nil {
		_, _ = h.move(req.GetSandboxId(), storing, paused, paused)
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	sb, ok := h.sandboxes[req.GetSandboxId()]
	if !ok || sb.GetState() != storing {
		return nil, models.Errorf(models.Conflict, "sandbox %s has moved on", req.GetSandboxId())
	}
	sb.State, sb.Archive = paused, archive
	h.publish(sb)
	return &pb.StoreSandboxResponse{Sandbox: proto.CloneOf(sb)}, nil
}

// awaitStored returns once the sandbox is not being stored: an agent ends that for a resume.
func (h *Host) awaitStored(ctx context.Context, sandbox string) {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for h.State(sandbox) == pb.SandboxState_SANDBOX_STATE_STORING {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

func (h *Host) storingHook() func(context.Context, *pb.Sandbox) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.storing == nil {
		return func(context.Context, *pb.Sandbox) error { return nil }
	}
	return h.storing
}

func (o *Objects) put(sb *pb.Sandbox) (*pb.Archive, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down != nil {
		return nil, o.down
	}
	o.keys++
	key := fmt.Sprintf("%s-pause-%d.%x", sb.GetSandboxId(), o.keys, o.keys)
	o.stored[key] = proto.CloneOf(sb)
	return &pb.Archive{Key: key, TemplateDigest: "sha256:01", Driver: "qemu", DriverVersion: "0", Accelerator: "tcg", SentBytes: 7}, nil
}

// ReleaseSandbox implements ArchiveService.
func (s archiveServer) ReleaseSandbox(ctx context.Context, req *pb.ReleaseSandboxRequest) (*pb.ReleaseSandboxResponse, error) {
	s.h.mu.Lock()
	before := s.h.released
	s.h.mu.Unlock()
	if before != nil {
		if err := before(ctx, req.GetSandboxId()); err != nil {
			return nil, err
		}
	}
	s.h.mu.Lock()
	sb, ok := s.h.sandboxes[req.GetSandboxId()]
	stored := ok && sb.GetState() == pb.SandboxState_SANDBOX_STATE_PAUSED && sb.GetArchive().GetKey() == req.GetKey()
	s.h.mu.Unlock()
	switch {
	case !ok:
	case !stored:
		return nil, models.Errorf(models.Conflict, "sandbox %s is not what is stored as %s", req.GetSandboxId(), req.GetKey())
	default:
		s.h.Lose(req.GetSandboxId(), false)
	}
	return &pb.ReleaseSandboxResponse{}, nil
}

// FetchSandbox implements ArchiveService.
func (s archiveServer) FetchSandbox(ctx context.Context, req *pb.FetchSandboxRequest) (*pb.FetchSandboxResponse, error) {
	h := s.h
	sb := &pb.Sandbox{SandboxId: req.GetSandboxId(), State: pb.SandboxState_SANDBOX_STATE_FETCHING, CreatedAt: timestamppb.Now(), NetworkGeneration: req.GetNetwork().GetGeneration()}
	h.mu.Lock()
	if here, ok := h.sandboxes[req.GetSandboxId()]; ok {
		defer h.mu.Unlock()
		if here.GetArchive().GetKey() != req.GetKey() {
			return nil, models.Errorf(models.Conflict, "sandbox %s is here", req.GetSandboxId())
		}
		return &pb.FetchSandboxResponse{Sandbox: proto.CloneOf(here)}, nil
	}
	h.networks[req.GetSandboxId()] = &pb.GetNetworkResponse{Policy: req.GetNetwork(), Counters: &pb.NetworkCounters{}}
	h.sandboxes[req.GetSandboxId()] = sb
	h.publish(sb)
	h.mu.Unlock()
	err := h.storingHook()(ctx, proto.CloneOf(sb))
	if err == nil {
		err = h.objects.has(req.GetKey())
	}
	if err != nil {
		h.Lose(req.GetSandboxId(), false)
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	sb, ok := h.sandboxes[req.GetSandboxId()]
	if !ok {
		return nil, models.Errorf(models.Conflict, "sandbox %s was destroyed", req.GetSandboxId())
	}
	sb.State, sb.Archive = pb.SandboxState_SANDBOX_STATE_PAUSED, &pb.Archive{Key: req.GetKey()}
	h.publish(sb)
	return &pb.FetchSandboxResponse{Sandbox: proto.CloneOf(sb)}, nil
}

func (o *Objects) has(key string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down != nil {
		return o.down
	}
	if o.stored[key] == nil {
		return models.Errorf(models.Precondition, "%s is missing from the object store", key)
	}
	return nil
}

// ListArchive implements ArchiveService.
func (s archiveServer) ListArchive(context.Context, *pb.ListArchiveRequest) (*pb.ListArchiveResponse, error) {
	return &pb.ListArchiveResponse{Keys: s.h.objects.Keys()}, nil
}

// RemoveArchive implements ArchiveService.
func (s archiveServer) RemoveArchive(_ context.Context, req *pb.RemoveArchiveRequest) (*pb.RemoveArchiveResponse, error) {
	o := s.h.objects
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down == nil {
		delete(o.stored, req.GetKey())
	}
	return &pb.RemoveArchiveResponse{}, o.down
}

// CollectArchive implements ArchiveService.
func (s archiveServer) CollectArchive(context.Context, *pb.CollectArchiveRequest) (*pb.CollectArchiveResponse, error) {
	o := s.h.objects
	o.mu.Lock()
	defer o.mu.Unlock()
	o.collections++
	return &pb.CollectArchiveResponse{Snapshots: int64(len(o.stored))}, o.down
}
