package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// poolBurst is how many sandboxes are created one after the other, which is also how many VMs wait then: what WRENN_POOL_MIB of scripts/bench.sh has room for. Within poolRefill they
// are made anew.
const poolBurst, poolRefill = 5, 6 * time.Second

// poolPatience is how long after a create one comes that measures a platform at rest. poolTries is how many in a row may find no VM: those do not count.
const poolPatience, poolTries = 1500 * time.Millisecond, 10

// pooledCreates measures creates that are handed a VM which was restored ahead.
func (b *bench) pooledCreates(ctx context.Context) error {
	if err := b.awaitGolden(ctx); err != nil {
		return err
	}
	var whole, create, certificate, rested []float64
	for tries := 0; len(whole) < b.rounds; tries++ {
		if tries == poolTries+b.rounds {
			return errors.New("no VMs are restored ahead")
		}
		samples, err := b.pooledBurst(ctx)
		if err != nil {
			return fmt.Errorf("creates from the pool, round %d: %w", len(whole), err)
		}
		for _, s := range samples {
			whole, create, certificate = append(whole, s.whole), append(create, s.create), append(certificate, s.resume)
		}
	}
	for len(rested) < b.rounds {
		sample, err := b.pooledAfterRest(ctx)
		if err != nil {
			return fmt.Errorf("create from the pool after a rest, round %d: %w", len(rested), err)
		}
		rested = append(rested, sample.whole)
	}
	b.add("pool_create_first_exec_ms", "ms", "POST /v1/sandboxes (minimal, 1 vCPU, 256 MiB) until the answer to the first exec of true, of VMs that waited, up to 5 creates one after the other", whole)
	b.add("pool_create_ms", "ms", "the first part of the same: POST /v1/sandboxes until its answer", create)
	b.add("pool_resume_guest_ms", "ms", "the step resume_guest of the same creates: the guest goes on, and renews its identity", certificate)
	b.add("pool_create_rested_first_exec_ms", "ms", "the whole of a create of a VM that waited, 1.5 s after the one before, in which nobody asked for anything", rested)
	return nil
}

// handed is how long a create took that was handed a VM, in milliseconds.
type handed struct{ whole, create, resume float64 }

// pooledBurst creates sandboxes one after the other, and then destroys them; of these it returns those that were handed a VM.
func (b *bench) pooledBurst(ctx context.Context) (samples []handed, err error) {
	if err := pause(ctx, poolRefill); err != nil {
		return nil, err
	}
	var made []*wrenn.Sandbox
	for range poolBurst {
		sample, sb, err := b.timedCreate(ctx)
		if err != nil {
			return nil, err
		}
		if made = append(made, sb); waited(sb) {
			samples = append(samples, sample)
		}
	}
	for _, sb := range made {
		if _, err := b.client.DestroySandbox(ctx, sb.ID); err != nil {
			return nil, err
		}
	}
	return samples, nil
}

// pooledAfterRest creates a sandbox after a rest, until one is handed a VM that waited.
func (b *bench) pooledAfterRest(ctx context.Context) (handed, error) {
	for range poolTries {
		if err := pause(ctx, poolPatience); err != nil {
			return handed{}, err
		}
		sample, sb, err := b.timedCreate(ctx)
		if err != nil {
			return handed{}, err
		}
		if _, err := b.client.DestroySandbox(ctx, sb.ID); err != nil || waited(sb) {
			return sample, err
		}
	}
	return handed{}, errors.New("no VM is restored ahead")
}

func (b *bench) timedCreate(ctx context.Context) (sample handed, sb *wrenn.Sandbox, err error) {
	begin := time.Now()
	if sb, err = b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: benchMemoryMiB}); err != nil {
		return sample, sb, err
	}
	sample.create = milliseconds(time.Since(begin))
	if _, err = b.client.Exec(ctx, sb.ID, wrenn.ExecRequest{Cmd: "true"}); err != nil {
		return sample, sb, err
	}
	sample.whole = milliseconds(time.Since(begin))
	for _, step := range sb.Timings {
		if step.Step == "resume_guest" {
			sample.resume = step.Milliseconds
		}
	}
	return sample, sb, nil
}

// waited tells whether a sandbox was handed a VM that waited.
func waited(sb *wrenn.Sandbox) bool {
	return slices.ContainsFunc(sb.Timings, func(t wrenn.Timing) bool { return t.Step == "take_from_pool" })
}
