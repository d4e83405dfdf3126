package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// poolPatience is how long after a create the next one comes: a VM of the pool is made anew meanwhile, and nothing else happens. poolTries is how many creates may find none in
// a row: those do not count.
const poolPatience, poolTries = 1500 * time.Millisecond, 10

// pooledCreates measures creates that are handed a VM which was restored ahead.
func (b *bench) pooledCreates(ctx context.Context) error {
	if err := b.awaitGolden(ctx); err != nil {
		return err
	}
	var whole, create, certificate []float64
	for len(whole) < b.rounds {
		sample, err := b.pooledCreate(ctx)
		if err != nil {
			return fmt.Errorf("create from the pool, round %d: %w", len(whole), err)
		}
		whole, create, certificate = append(whole, sample.whole), append(create, sample.create), append(certificate, sample.resume)
	}
	b.add("pool_create_first_exec_ms", "ms", "POST /v1/sandboxes (minimal, 1 vCPU, 256 MiB) until the answer to the first exec of true, of a VM that waited, 1.5 s after the one before", whole)
	b.add("pool_create_ms", "ms", "the first part of the same: POST /v1/sandboxes until its answer", create)
	b.add("pool_resume_guest_ms", "ms", "the step resume_guest of the same creates: the guest goes on, and renews its identity", certificate)
	return nil
}

// handed is how long a create took that was handed a VM, in milliseconds.
type handed struct{ whole, create, resume float64 }

// pooledCreate creates sandboxes until one is handed a VM that waited.
func (b *bench) pooledCreate(ctx context.Context) (handed, error) {
	for range poolTries {
		select {
		case <-time.After(poolPatience):
		case <-ctx.Done():
			return handed{}, ctx.Err()
		}
		sample, waited, err := b.timedCreate(ctx)
		if waited || err != nil {
			return sample, err
		}
	}
	return handed{}, errors.New("no VM is restored ahead")
}

func (b *bench) timedCreate(ctx context.Context) (sample handed, waited bool, err error) {
	begin := time.Now()
	sb, err := b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: benchMemoryMiB})
	if err != nil {
		return handed{}, false, err
	}
	sample.create = milliseconds(time.Since(begin))
	if _, err := b.client.Exec(ctx, sb.ID, wrenn.ExecRequest{Cmd: "true"}); err != nil {
		return handed{}, false, err
	}
	sample.whole = milliseconds(time.Since(begin))
	for _, step := range sb.Timings {
		if step.Step == "resume_guest" {
			sample.resume = step.Milliseconds
		}
	}
	waited = slices.ContainsFunc(sb.Timings, func(t wrenn.Timing) bool { return t.Step == "take_from_pool" })
	_, err = b.client.DestroySandbox(ctx, sb.ID)
	return sample, waited, err
}
