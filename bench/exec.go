package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/envdclient"
	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// envdPort is where envd listens in the guest.
const envdPort = 49983

// execsAgainstEnvd runs `true` by turns through the REST API and directly on the envd of a second, equal
// VM, so that both see the same machine. The difference of the pairs is what the platform adds.
func (b *bench) execsAgainstEnvd(ctx context.Context) error {
	sb, err := b.client.CreateSandbox(ctx, wrenn.CreateSandboxRequest{Template: "minimal", VCPUs: 1, MemoryMiB: 256})
	if err != nil {
		return err
	}
	alone, end, err := b.bareEnvd(ctx)
	if err != nil {
		return err
	}
	defer end()
	var rest, direct, added []float64
	for i := range b.execs + 10 {
		through, err := b.execThrough(ctx, sb.ID)
		if err != nil {
			return err
		}
		bare, err := execOn(ctx, alone)
		if err != nil {
			return err
		}
		if i >= 10 { // the first ones warm the guests
			rest, direct, added = append(rest, through), append(direct, bare), append(added, through-bare)
		}
	}
	b.add("exec_true_rest_ms", "ms", "POST …/exec of true in a warm VM", rest)
	b.add("exec_true_envd_ms", "ms", "the same on the envd of an equal VM, without the platform", direct)
	b.add("exec_true_platform_ms", "ms", "difference of the two, pair by pair", added)
	_, err = b.client.DestroySandbox(ctx, sb.ID)
	return err
}

func (b *bench) execThrough(ctx context.Context, id string) (float64, error) {
	begin := time.Now()
	_, err := b.client.Exec(ctx, id, wrenn.ExecRequest{Cmd: "true"})
	return milliseconds(time.Since(begin)), err
}

func execOn(ctx context.Context, guest *envdclient.Client) (float64, error) {
	begin := time.Now()
	run, err := guest.Exec(ctx, envdclient.Command{Cmd: "true"})
	if err != nil {
		return 0, err
	}
	defer run.Close()
	for {
		if _, err := run.Next(); errors.Is(err, io.EOF) {
			return milliseconds(time.Since(begin)), nil
		} else if err != nil {
			return 0, err
		}
	}
}

// bareEnvd returns a client of the envd in a VM without agent or control plane.
func (b *bench) bareEnvd(ctx context.Context) (guest *envdclient.Client, end func(), err error) {
	machine, endVM, err := b.bareVM(ctx, b.copyMinimal)
	if err != nil {
		return nil, nil, err
	}
	guest = envdclient.New(func(ctx context.Context) (net.Conn, error) { return machine.Dial(ctx, envdPort) }, "bench")
	end = func() {
		guest.Close()
		endVM()
	}
	if _, err = guest.Health(ctx); err == nil {
		err = guest.Init(ctx, envdclient.Init{Now: time.Now(), DefaultUser: "user"})
	}
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("reach the envd of a bare VM: %w", err)
	}
	return guest, end, nil
}
