package main

import (
	"context"
	"fmt"
	"time"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// hibernations measures the hibernation of a sandbox that runs, and its way back until the first exec is answered, again and again. The object store is what the platform was started with.
func (b *bench) hibernations(ctx context.Context) error {
	sb, err := b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: benchMemoryMiB})
	if err != nil {
		return err
	}
	var down, up, sent []float64
	for i := range b.rounds + 1 {
		took, bytes, back, err := b.hibernation(ctx, sb.ID)
		if err != nil {
			return fmt.Errorf("hibernation, round %d: %w", i, err)
		}
		if i == 0 { // all of it is sent, the others what has changed since
			b.add("hibernate_first_ms", "ms", "the first POST …/hibernate of a sandbox (minimal, 1 vCPU, 256 MiB) that runs", []float64{took})
			b.add("hibernate_first_sent_mib", "MiB", "sent to the object store by that", []float64{bytes})
			continue
		}
		down, up, sent = append(down, took), append(up, back), append(sent, bytes)
	}
	b.add("hibernate_ms", "ms", "POST …/hibernate of the same, that runs, until its answer: it is stored, and its host holds nothing of it", down)
	b.add("hibernate_sent_mib", "MiB", "sent to the object store by that", sent)
	b.add("cold_resume_first_exec_ms", "ms", "POST …/resume of the same until the answer to the first exec of true, without a cache of chunks", up)
	_, err = b.client.DestroySandbox(ctx, sb.ID)
	return err
}

func (b *bench) hibernation(ctx context.Context, id string) (took, sentMiB, back float64, err error) {
	begin := time.Now()
	sb, err := b.client.HibernateSandbox(ctx, id)
	if err != nil {
		return 0, 0, 0, err
	}
	took = milliseconds(time.Since(begin))
	begin = time.Now()
	if _, err := b.client.ResumeSandbox(ctx, id); err != nil {
		return 0, 0, 0, err
	}
	_, err = b.execThrough(ctx, id)
	return took, float64(sb.Archive.SentBytes) / (1 << 20), milliseconds(time.Since(begin)), err
}
