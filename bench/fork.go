package main

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// forkChildren is how many children each fork makes.
const forkChildren = 4

// forks measures forks of one sandbox again and again.
func (b *bench) forks(ctx context.Context) error {
	sb, err := b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: benchMemoryMiB})
	if err != nil {
		return err
	}
	var took []float64
	for i := range b.rounds + 1 {
		ms, err := b.fork(ctx, sb.ID)
		if err != nil {
			return fmt.Errorf("fork, round %d: %w", i, err)
		}
		if i > 0 { // the first warms the caches of the host
			took = append(took, ms)
		}
	}
	b.add("fork4_ms", "ms", "POST …/fork of 4 (minimal, 1 vCPU, 256 MiB, booted) until its answer: all four run, and their guests have renewed themselves", took)
	_, err = b.client.DestroySandbox(ctx, sb.ID)
	return err
}

func (b *bench) fork(ctx context.Context, id string) (float64, error) {
	begin := time.Now()
	children, err := b.client.ForkSandbox(ctx, id, wrenn.ForkRequest{Count: forkChildren})
	if err != nil {
		return 0, err
	}
	ms := milliseconds(time.Since(begin))
	for _, child := range children {
		if child.State != wrenn.Running {
			return 0, fmt.Errorf("the child %s is %s", child.ID, child.State)
		}
		if _, err := b.client.DestroySandbox(ctx, child.ID); err != nil {
			return 0, err
		}
	}
	return ms, nil
}
