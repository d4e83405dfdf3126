package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/lifecycle/agent"
	"github.com/wrenn-sandbox/wrenn/internal/meminfo"
	"github.com/wrenn-sandbox/wrenn/internal/metrics"
)

// hostKept is how long what was seen of the host is told again.
const hostKept = 2 * time.Second

const mib = 1 << 20

var hostFamilies = []metrics.Family{
	{Name: "agent_sandboxes", Help: "Sandboxes on this host, by state as the agent has it.", Labels: []string{"state"}},
	{Name: "agent_sandbox_memory_bytes", Help: "Memory of the guests that have a VM."},
	{Name: "agent_golden_snapshots", Help: "Snapshots from which sandboxes are made without booting."},
	{Name: "agent_golden_snapshot_bytes", Help: "What they take of the disk."},
	{Name: "agent_pool_vms", Help: "VMs that are restored ahead, and wait."},
	{Name: "agent_memory_bytes", Help: "Memory of the host: all of it, and what is available.", Labels: []string{"kind"}},
	{Name: "agent_disk_bytes", Help: "The disk that sandboxes and images lie on: all of it, and what can really be written.", Labels: []string{"kind"}},
}

// lookAround has s tell what this host holds and has.
func lookAround(s *metrics.Set, p *parts, log *slog.Logger) {
	s.Look(metrics.Look{Part: "host", Keep: hostKept, Families: hostFamilies, Read: func(_ context.Context, put metrics.Put) error {
		p.putSandboxes(put)
		return p.putRoom(put)
	}}, log)
}

func (p *parts) putSandboxes(put metrics.Put) {
	states, memory := map[agent.State]int{agent.Running: 0, agent.Paused: 0}, 0
	for _, sb := range p.agent.Sandboxes() {
		states[sb.State]++
		switch sb.State {
		case agent.Starting, agent.Running, agent.Pausing, agent.Resuming, agent.Stopping:
			memory += sb.Size.MemoryMiB
		case agent.Paused, agent.Failed, agent.Gone, agent.Storing, agent.Fetching: // without a VM
		}
	}
	for state, n := range states {
		put("agent_sandboxes", float64(n), string(state))
	}
	put("agent_sandbox_memory_bytes", float64(memory)*mib)
	golden := p.agent.GoldenSnapshots()
	var bytes int64
	for _, g := range golden {
		bytes += g.Bytes
	}
	put("agent_golden_snapshots", float64(len(golden)))
	put("agent_golden_snapshot_bytes", float64(bytes))
	waiting := 0
	for _, v := range p.agent.Pool() {
		waiting += v.Count
	}
	put("agent_pool_vms", float64(waiting))
}

func (p *parts) putRoom(put metrics.Put) error {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return fmt.Errorf("read the host's memory: %w", err)
	}
	for kind, field := range map[string]string{"total": "MemTotal", "available": "MemAvailable"} {
		if bytes, ok := meminfo.Bytes(string(text), field); ok {
			put("agent_memory_bytes", float64(bytes), kind)
		}
	}
	disk, err := p.images.Info()
	if err != nil {
		return fmt.Errorf("read the host's disk: %w", err)
	}
	free, err := p.volume.FreeMiB()
	if err != nil {
		return fmt.Errorf("read what is free of the host's disk: %w", err)
	}
	put("agent_disk_bytes", float64(disk.TotalMiB)*mib, "total")
	put("agent_disk_bytes", float64(free)*mib, "available")
	return nil
}

// countRefusals returns what the agent is to call with what networks have refused.
func countRefusals(s *metrics.Set) func(rule string, count int64) {
	refused := s.Counter("agent_network_refusals_total", "Packets and names that were refused to sandboxes, by the rule, as far as they were noticed: of very many the host sees samples.", "rule")
	return func(rule string, count int64) { refused.Add(int(count), rule) }
}

// serveMetrics answers until stop is called; where the settings name no address it does nothing.
func serveMetrics(ctx context.Context, cfg config.Agent, s *metrics.Set, log *slog.Logger) (stop func(), err error) {
	if cfg.MetricsListen == "" {
		return func() {}, nil
	}
	var l net.Listener
	if l, err = metrics.Listen(ctx, cfg.MetricsListen); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it tells of the end too
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ctx, l, log)
	}()
	return func() {
		cancel()
		<-done
	}, nil
}
