package api

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect"

	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
)

// terminalSandbox makes a sandbox whose guest has terminals.
func (r *rig) terminalSandbox() string {
	r.t.Helper()
	sb := r.create().ID
	_, handler := processconnect.NewProcessHandler(&terminalGuest{})
	r.sim.Script(sb, handler)
	return sb
}

// terminalGuest plays the process service: each process writes what its script printf's, and then what it gets.
type terminalGuest struct {
	processconnect.UnimplementedProcessHandler
	mu        sync.Mutex
	processes []*terminalProcess
}

type terminalProcess struct {
	pid    uint32
	tag    string
	mu     sync.Mutex
	output []byte
	end    *pb.ProcessEvent_EndEvent
	wake   chan struct{} // closed at each change
}

func (p *terminalProcess) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.wake)
	p.wake = make(chan struct{})
}

func (g *terminalGuest) find(s *pb.ProcessSelector) (*terminalProcess, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.processes {
		if p.pid == s.GetPid() || s.GetTag() != "" && p.tag == s.GetTag() {
			return p, nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, errors.New("no such process"))
}

func (g *terminalGuest) Start(_ context.Context, req *connect.Request[pb.StartRequest], stream *connect.ServerStream[pb.StartResponse]) error {
	if req.Msg.GetPty().GetSize().GetCols() == 0 || !req.Msg.GetStdin() {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("no terminal"))
	}
	script := req.Msg.GetProcess().GetArgs()[1]
	_, said, _ := strings.Cut(script, "printf ")
	said, _, _ = strings.Cut(said, ";")
	g.mu.Lock()
	p := &terminalProcess{pid: uint32(len(g.processes) + 1), tag: req.Msg.GetTag(), output: []byte(said), wake: make(chan struct{})}
	if strings.HasSuffix(script, "exit 3") {
		p.end = &pb.ProcessEvent_EndEvent{ExitCode: 3, Exited: true}
	}
	g.processes = append(g.processes, p)
	g.mu.Unlock()
	start := &pb.ProcessEvent_Start{Start: &pb.ProcessEvent_StartEvent{Pid: p.pid}}
	return stream.Send(&pb.StartResponse{Event: &pb.ProcessEvent{Event: start}})
}

func (g *terminalGuest) List(context.Context, *connect.Request[pb.ListRequest]) (*connect.Response[pb.ListResponse], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := &pb.ListResponse{}
	for _, p := range g.processes {
		list.Processes = append(list.Processes, &pb.ProcessInfo{Pid: p.pid, Tag: &p.tag})
	}
	return connect.NewResponse(list), nil
}

func (g *terminalGuest) Connect(ctx context.Context, req *connect.Request[pb.ConnectRequest], stream *connect.ServerStream[pb.ConnectResponse]) error {
	p, err := g.find(req.Msg.GetProcess())
	if err != nil {
		return err
	}
	at := int(req.Msg.GetOffset())
	event := &pb.ProcessEvent{Event: &pb.ProcessEvent_Start{Start: &pb.ProcessEvent_StartEvent{Pid: p.pid, Offset: uint64(at)}}}
	for {
		if err := stream.Send(&pb.ConnectResponse{Event: event}); err != nil {
			return err
		}
		if event.GetEnd() != nil {
			return nil
		}
		if event, err = p.next(ctx, at); err != nil {
			return err
		}
		at += len(event.GetData().GetPty())
	}
}

// next waits for the event at an offset.
func (p *terminalProcess) next(ctx context.Context, at int) (*pb.ProcessEvent, error) {
	for {
		p.mu.Lock()
		rest, end, wake := bytes.Clone(p.output[at:]), p.end, p.wake
		p.mu.Unlock()
		switch {
		case len(rest) > 0:
			piece := rest[:min(len(rest), 1000)]
			return &pb.ProcessEvent{Event: &pb.ProcessEvent_Data{Data: &pb.ProcessEvent_DataEvent{Output: &pb.ProcessEvent_DataEvent_Pty{Pty: piece}}}}, nil
		case end != nil:
			return &pb.ProcessEvent{Event: &pb.ProcessEvent_End{End: end}}, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (g *terminalGuest) SendInput(_ context.Context, req *connect.Request[pb.SendInputRequest]) (*connect.Response[pb.SendInputResponse], error) {
	p, err := g.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	p.change(func() { p.output = slices.Concat(p.output, req.Msg.GetInput().GetPty()) })
	return connect.NewResponse(&pb.SendInputResponse{}), nil
}

func (g *terminalGuest) Update(_ context.Context, req *connect.Request[pb.UpdateRequest]) (*connect.Response[pb.UpdateResponse], error) {
	_, err := g.find(req.Msg.GetProcess())
	return connect.NewResponse(&pb.UpdateResponse{}), err
}

func (g *terminalGuest) SendSignal(_ context.Context, req *connect.Request[pb.SendSignalRequest]) (*connect.Response[pb.SendSignalResponse], error) {
	p, err := g.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	p.change(func() { p.end = &pb.ProcessEvent_EndEvent{ExitCode: -1, Signal: int32(req.Msg.GetSignal())} })
	return connect.NewResponse(&pb.SendSignalResponse{}), nil
}
