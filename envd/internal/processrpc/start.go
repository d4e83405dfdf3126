package processrpc

import (
	"context"
	"errors"

	"github.com/wrenn-sandbox/wrenn/envd/internal/caller"
	"github.com/wrenn-sandbox/wrenn/envd/internal/connect"
	"github.com/wrenn-sandbox/wrenn/envd/internal/process"
)

func (h *Handler) start(ctx context.Context, call *connect.Call, req *StartRequest, send func(*EventResponse) error) error {
	spec, err := h.spec(call, req)
	if err != nil {
		return err
	}
	p, reader, err := h.processes.Start(spec)
	if err != nil {
		return wireError(err)
	}
	defer h.processes.Tidy()
	defer reader.Close()
	f := follower{p: p, reader: reader, keepalive: caller.Keepalive(call.Header), extended: extended(call), send: send}
	err = f.follow(ctx)
	if errors.Is(err, errAbandoned) && call.Header.Get(HeaderKillOnDisconnect) == "1" {
		_ = p.Kill() // nobody is left to tell
	}
	return err
}

// spec is what a request asks to start.
func (h *Handler) spec(call *connect.Call, req *StartRequest) (*process.Spec, error) {
	u, err := h.caller(call.Header)
	if err != nil {
		return nil, err
	}
	config, defaults := req.Process, h.session.Defaults()
	if config == nil {
		config = &ProcessConfig{}
	}
	return &process.Spec{
		Cmd: config.Cmd, Args: config.Args, Env: config.Envs, BaseEnv: defaults.Env,
		Cwd: deref(config.Cwd), Workdir: defaults.Workdir, User: u, Tag: deref(req.Tag), Terminal: sizeOf(req.PTY),
		Stdin: req.Stdin == nil || *req.Stdin, Timeout: call.Timeout,
	}, nil
}

func deref(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

func (h *Handler) connect(ctx context.Context, call *connect.Call, req *ConnectRequest, send func(*EventResponse) error) error {
	p, err := h.find(req.Process, extended(call))
	if err != nil {
		return err
	}
	offset, gaps := int64(-1), false
	if req.Offset != nil && extended(call) {
		offset, gaps = *req.Offset, true
	}
	if offset < -1 {
		return connect.Errorf(connect.InvalidArgument, "the offset %d is negative", offset)
	}
	reader, err := p.Attach(offset, gaps)
	if err != nil {
		return wireError(err)
	}
	defer reader.Close()
	f := follower{p: p, reader: reader, keepalive: caller.Keepalive(call.Header), extended: extended(call), send: send}
	return f.follow(ctx)
}
