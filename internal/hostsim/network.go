package hostsim

import (
	"context"

	"google.golang.org/protobuf/proto"

	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// OnNetwork has f called at the begin of each change of a network policy, whose error is the change's.
func (h *Host) OnNetwork(f func(*pb.SetNetworkPolicyRequest) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.enforcing = f
}

// Network returns what the host knows of a sandbox's network, which change, if any, changes first.
func (h *Host) Network(sandbox string, change func(*pb.GetNetworkResponse)) *pb.GetNetworkResponse {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.networks[sandbox]; n != nil && change != nil {
		change(n)
	}
	return proto.CloneOf(h.networks[sandbox])
}

// SetNetworkPolicy implements HostAgentService.
func (h *Host) SetNetworkPolicy(_ context.Context, req *pb.SetNetworkPolicyRequest) (*pb.SetNetworkPolicyResponse, error) {
	h.mu.Lock()
	f := h.enforcing
	h.mu.Unlock()
	if f != nil {
		if err := f(req); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	sb := h.sandboxes[req.GetSandboxId()]
	if sb == nil {
		return nil, missing(req.GetSandboxId())
	}
	if req.GetPolicy().GetGeneration() > sb.GetNetworkGeneration() {
		sb.NetworkGeneration = req.GetPolicy().GetGeneration()
		if h.networks[req.GetSandboxId()] == nil { // one that was made out of nothing
			h.networks[req.GetSandboxId()] = &pb.GetNetworkResponse{Counters: &pb.NetworkCounters{}}
		}
		h.networks[req.GetSandboxId()].Policy = proto.CloneOf(req.GetPolicy())
		h.publish(sb)
	}
	return &pb.SetNetworkPolicyResponse{Generation: sb.GetNetworkGeneration()}, nil
}

// GetNetwork implements HostAgentService.
func (h *Host) GetNetwork(_ context.Context, req *pb.GetNetworkRequest) (*pb.GetNetworkResponse, error) {
	if n := h.Network(req.GetSandboxId(), nil); n != nil {
		return n, nil
	}
	return nil, missing(req.GetSandboxId())
}
