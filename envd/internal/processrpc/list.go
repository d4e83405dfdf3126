package processrpc

import (
	"context"

	"github.com/wrenn-sandbox/wrenn/envd/internal/connect"
	"github.com/wrenn-sandbox/wrenn/envd/internal/process"
)

func (h *Handler) list(_ context.Context, call *connect.Call, _ *Empty) (*ListResponse, error) {
	list := &ListResponse{}
	for _, p := range h.processes.List() {
		list.Processes = append(list.Processes, describe(p, extended(call)))
	}
	if extended(call) {
		for _, p := range h.processes.Ended() {
			list.Processes = append(list.Processes, describe(p, true))
		}
	}
	return list, nil
}

func describe(p *process.Process, extended bool) *ProcessInfo {
	spec := p.Spec()
	info := &ProcessInfo{
		PID:    uint32(p.PID()),
		Config: &ProcessConfig{Cmd: spec.Cmd, Args: spec.Args, Envs: spec.Env},
	}
	if spec.Cwd != "" {
		info.Config.Cwd = &spec.Cwd
	}
	if spec.Tag != "" {
		info.Tag = &spec.Tag
	}
	if extended {
		extend(info, p)
	}
	return info
}

// extend adds what E2B's protocol does not have.
func extend(info *ProcessInfo, p *process.Process) {
	info.User = p.Spec().User.Name
	info.StartedAt = float64(p.Started().UnixMilli()) / 1000
	info.PTY = p.Terminal()
	info.OutputBytes = p.OutputSize()
	select {
	case <-p.Done():
		info.End = endEvent(p.Exit(), true)
	default:
	}
}
