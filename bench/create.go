package main

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// guestSteps are the steps of a create that are the VMM's and the guest's, not the platform's.
var guestSteps = map[string]bool{"start_vmm": true, "boot_guest": true, "restore_vm": true, "resume_guest": true}

// creates measures a create until the first exec is answered, and the platform's own part of the create.
func (b *bench) creates(ctx context.Context) error {
	var whole, share, vmm []float64
	for i := range b.rounds + 1 {
		total, own, guest, err := b.create(ctx)
		if err != nil {
			return fmt.Errorf("round %d: %w", i, err)
		}
		if i == 0 { // the first warms the caches of the host
			continue
		}
		whole, share, vmm = append(whole, total), append(share, own), append(vmm, guest)
	}
	b.add("cold_create_first_exec_ms", "ms", "POST /v1/sandboxes (minimal, 1 vCPU, 256 MiB) until the answer to the first exec of true, cold boot", whole)
	b.add("platform_share_of_create_ms", "ms", "POST /v1/sandboxes as its client sees it, less the steps start_vmm and boot_guest", share)
	b.add("vmm_and_guest_boot_ms", "ms", "the steps start_vmm and boot_guest of the same creates", vmm)
	return nil
}

func (b *bench) create(ctx context.Context) (whole, share, guest float64, err error) {
	begin := time.Now()
	sb, err := b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: 256})
	if err != nil {
		return 0, 0, 0, err
	}
	created := time.Since(begin)
	if _, err := b.client.Exec(ctx, sb.ID, wrenn.ExecRequest{Cmd: "true"}); err != nil {
		return 0, 0, 0, err
	}
	answered := time.Since(begin)
	for _, step := range sb.Timings {
		if guestSteps[step.Step] {
			guest += step.Milliseconds
		}
	}
	if guest == 0 {
		return 0, 0, 0, fmt.Errorf("the timings of %s name no step of its VM: %+v", sb.ID, sb.Timings)
	}
	_, err = b.client.DestroySandbox(ctx, sb.ID)
	return milliseconds(answered), milliseconds(created) - guest, guest, err
}
