package lifetest

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/hostsim"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

const (
	// slowest is how long a host may take for what it is asked: others die meanwhile.
	slowest = 20 * time.Millisecond
	// sound is how many of what a host is asked succeed for each that fails.
	sound = 30
)

// hinder has a host take its time, and fail now and then.
func hinder(h *hostsim.Host) {
	h.OnCreate(func(ctx context.Context, _ *pb.CreateSandboxRequest) error { return hindrance(ctx) }, nil)
	h.OnFork(func(ctx context.Context, _ *pb.ForkSandboxRequest) error { return hindrance(ctx) }, nil)
	h.OnSnapshot(func(ctx context.Context, _ *pb.CreateSnapshotRequest) error { return hindrance(ctx) }, nil)
	h.OnSleep(func(ctx context.Context, _ *pb.Sandbox) error { return hindrance(ctx) }, nil)
	h.OnDestroy(func(ctx context.Context, _ string) error { return hindrance(ctx) })
	h.OnStore(func(ctx context.Context, _ *pb.Sandbox) error { return hindrance(ctx) }, func(ctx context.Context, _ string) error { return hindrance(ctx) })
}

func hindrance(ctx context.Context) error {
	t := time.NewTimer(rand.N(slowest))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if rand.N(sound+1) == 0 {
		return models.Errorf(models.Unavailable, "the simulated host has failed")
	}
	return nil
}
