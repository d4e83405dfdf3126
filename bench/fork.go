package main

import (
	"context"
	"errors"
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
	if err := b.forkGaps(ctx, sb.ID); err != nil {
		return err
	}
	_, err = b.client.DestroySandbox(ctx, sb.ID)
	return err
}

// ticking is a program that says something every 10 ms, without another.
const ticking = "exec 3<> <(:); while :; do echo; read -rt 0.01 -u 3; done"

// forkGaps measures how long a program of the parent is not heard of while it is forked.
func (b *bench) forkGaps(ctx context.Context, id string) error {
	program, err := b.client.ExecStream(ctx, id, wrenn.ExecRequest{Cmd: "bash", Args: []string{"-c", ticking}})
	if err != nil {
		return err
	}
	defer program.Close()
	heard := make(chan time.Time)
	go func() {
		defer close(heard)
		for _, err := range program.Events() {
			if err != nil {
				return
			}
			heard <- time.Now()
		}
	}()
	var gaps []float64
	for len(gaps) < b.rounds {
		gap, err := longestGap(heard, func() error {
			_, err := b.fork(ctx, id)
			return err
		})
		if err != nil {
			return fmt.Errorf("fork beside a program, round %d: %w", len(gaps), err)
		}
		gaps = append(gaps, milliseconds(gap))
	}
	b.add("fork_parent_gap_ms", "ms", "the longest that a program of the parent, which says something every 10 ms, is not heard of while four are made of it, and destroyed", gaps)
	return nil
}

// longestGap is how far those moments that are heard of while do runs are apart at most.
func longestGap(heard <-chan time.Time, do func() error) (gap time.Duration, err error) {
	done := make(chan error, 1)
	last := <-heard
	go func() { done <- do() }()
	for {
		select {
		case now, goesOn := <-heard:
			if !goesOn {
				return 0, errors.New("the program has ended")
			}
			gap, last = max(gap, now.Sub(last)), now
		case err := <-done:
			return max(gap, time.Since(last)), err
		}
	}
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
