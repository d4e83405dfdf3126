package main

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// sleeps measures a pause, and a resume until the first exec is answered, of one sandbox again and again.
func (b *bench) sleeps(ctx context.Context) error {
	sb, err := b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: benchMemoryMiB})
	if err != nil {
		return err
	}
	var pauses, resumes []float64
	for i := range b.rounds + 1 {
		pause, resume, err := b.sleep(ctx, sb.ID)
		if err != nil {
			return fmt.Errorf("sleep, round %d: %w", i, err)
		}
		if i > 0 { // the first writes all of the memory, the others what has changed since
			pauses, resumes = append(pauses, pause), append(resumes, resume)
		}
	}
	b.add("warm_pause_ms", "ms", "POST …/pause (minimal, 1 vCPU, 256 MiB, resumed before) until its answer: the snapshot is on disk and the VMM gone", pauses)
	b.add("warm_resume_first_exec_ms", "ms", "POST …/resume of the same until the answer to the first exec of true", resumes)
	_, err = b.client.DestroySandbox(ctx, sb.ID)
	return err
}

func (b *bench) sleep(ctx context.Context, id string) (pause, resume float64, err error) {
	begin := time.Now()
	if _, err := b.client.PauseSandbox(ctx, id); err != nil {
		return 0, 0, err
	}
	pause = milliseconds(time.Since(begin))
	begin = time.Now()
	if _, err := b.client.ResumeSandbox(ctx, id); err != nil {
		return 0, 0, err
	}
	_, err = b.execThrough(ctx, id)
	return pause, milliseconds(time.Since(begin)), err
}
