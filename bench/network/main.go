// Command network measures what a sandbox's network costs beside how many others there are, and beside the same done with
// the ip and iptables commands, in a network namespace of its own. It merges its results into bench.json.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/bench/report"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/network"
	"github.com/wrenn-sandbox/wrenn/internal/network/netns"
)

func main() {
	out := flag.String("o", "build/bench.json", "file for the results")
	rounds := flag.Int("rounds", 40, "sandboxes to measure beside each number of others")
	most := flag.Int("most", 10_000, "largest number of sandboxes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, *rounds, *most); err != nil {
		fmt.Fprintln(os.Stderr, "bench network:", err)
		os.Exit(1)
	}
}

// run measures in a namespace that goes with it, and all devices with that.
func run(ctx context.Context, out string, rounds, most int) (err error) {
	dir, err := os.MkdirTemp("", "wrenn-bench-network")
	if err != nil {
		return err
	}
	b := bench{namespace: filepath.Join(dir, "ns"), rounds: rounds}
	if err := netns.Create(b.namespace); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, netns.Delete(b.namespace), os.RemoveAll(dir)) }()
	for _, measure := range []func(context.Context) error{b.byCommands, func(ctx context.Context) error { return b.byNetlink(ctx, most) }} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	return errors.Join(report.Print(b.results), report.Merge(out, b.results))
}

type bench struct {
	namespace string
	rounds    int
	results   []report.Result
}

func (b *bench) add(name, how string, samples []float64) {
	b.results = append(b.results, report.New(name, "ms", how, samples))
}

// byNetlink measures the product's own way beside growing numbers of sandboxes.
func (b *bench) byNetlink(ctx context.Context, most int) (err error) {
	var n *network.Network
	err = netns.Do(b.namespace, func() error {
		n, err = network.Open(ctx, network.Config{Pool: 2 * network.DefaultPool, Logger: slog.New(slog.DiscardHandler)})
		return err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close(context.WithoutCancel(ctx), false)) }()
	attached := 0
	for _, level := range []int{1, 1000, 10_000} {
		level = min(level, most)
		for ; attached < level; attached++ {
			if _, err := attach(ctx, n, sandbox(attached), network.DefaultPolicy); err != nil {
				return fmt.Errorf("attach sandbox %d: %w", attached, err)
			}
		}
		if err := b.lives(ctx, n, level); err != nil {
			return err
		}
	}
	return b.policies(ctx, n)
}

// settle is how long it takes from one life to the next, so that the pool has its next device: sandboxes that come and go at
// full speed would measure how quickly the kernel makes devices.
const settle = 60 * time.Millisecond

// lives attaches and detaches sandboxes beside level others. Each is attached right after another one was detached.
func (b *bench) lives(ctx context.Context, n *network.Network, level int) error {
	var setUp, tearDown []float64
	last, err := attach(ctx, n, life(0), network.DefaultPolicy)
	if err != nil {
		return err
	}
	for i := range b.rounds + 5 {
		rest(ctx)
		begin := time.Now()
		if err := n.Detach(ctx, life(i)); err != nil {
			return err
		}
		detached := time.Now()
		slot, err := attach(ctx, n, life(i+1), network.DefaultPolicy)
		if err != nil {
			return err
		}
		if i >= 5 { // the first ones warm up
			setUp, tearDown = append(setUp, milliseconds(time.Since(detached))), append(tearDown, milliseconds(detached.Sub(begin)))
		}
		n.Release(last)
		last = slot
	}
	if err := n.Detach(ctx, life(b.rounds+5)); err != nil {
		return err
	}
	n.Release(last)
	b.add(fmt.Sprintf("net_setup_ms_at_%d", level), fmt.Sprintf("Reserve and Attach beside %d sandboxes, right after a Detach, TAPs made ahead", level), setUp)
	b.add(fmt.Sprintf("net_teardown_ms_at_%d", level), fmt.Sprintf("Detach beside %d sandboxes", level), tearDown)
	return nil
}

// policies changes the policy of one of all sandboxes to and fro.
func (b *bench) policies(ctx context.Context, n *network.Network) error {
	var one, two network.Policy
	for i := range byte(20) {
		one.Allow = append(one.Allow, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, i << 2}), 30))
		two.Deny = append(two.Deny, netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, i << 2}), 30))
	}
	var change []float64
	for i := range b.rounds {
		rest(ctx)
		policy := one
		if i%2 == 1 {
			policy = two
		}
		begin := time.Now()
		if err := n.SetPolicy(ctx, sandbox(0), policy); err != nil {
			return err
		}
		change = append(change, milliseconds(time.Since(begin)))
	}
	b.add("net_policy_change_ms", "SetPolicy from 20 networks to 20 others, beside all sandboxes", change)
	return nil
}

func attach(ctx context.Context, n *network.Network, sandbox id.Sandbox, p network.Policy) (network.Slot, error) {
	slot, err := n.Reserve(ctx)
	if err != nil {
		return slot, err
	}
	_, err = n.Attach(ctx, sandbox, slot, p)
	return slot, err
}

func life(i int) id.Sandbox { return id.Sandbox(fmt.Sprintf("sb-ff%06x", i)) }

func sandbox(i int) id.Sandbox { return id.Sandbox(fmt.Sprintf("sb-%08x", i+1)) }

func rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(settle):
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
