package hostapi

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// SetNetworkPolicy implements HostAgentService.
func (s *Server) SetNetworkPolicy(ctx context.Context, req *pb.SetNetworkPolicyRequest) (*pb.SetNetworkPolicyResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	if req.GetPolicy() == nil {
		return nil, models.Errorf(models.Invalid, "there is no policy in the request")
	}
	policy, err := policy(req.GetPolicy())
	if err != nil {
		return nil, err
	}
	generation, err := s.agent.SetNetwork(ctx, sb, policy)
	if err != nil {
		return nil, err
	}
	return &pb.SetNetworkPolicyResponse{Generation: generation}, nil
}

// GetNetwork implements HostAgentService.
func (s *Server) GetNetwork(_ context.Context, req *pb.GetNetworkRequest) (*pb.GetNetworkResponse, error) {
	sb, err := parse(req.GetSandboxId())
	if err != nil {
		return nil, err
	}
	n, err := s.agent.Network(sb)
	if err != nil {
		return nil, err
	}
	resp := &pb.GetNetworkResponse{
		Policy: &pb.NetworkPolicy{
			Generation: n.Policy.Generation, Internet: n.Policy.Internet, Ipv6: n.Policy.IPv6,
			Allow: models.DestinationTexts(n.Policy.Allow), Deny: models.DestinationTexts(n.Policy.Deny),
		},
		Ipv6Why: n.IPv6.Why,
		Counters: &pb.NetworkCounters{
			SentPackets: n.Counters.SentPackets, SentBytes: n.Counters.SentBytes,
			ReceivedPackets: n.Counters.ReceivedPackets, ReceivedBytes: n.Counters.ReceivedBytes, DroppedPackets: n.Counters.Dropped,
		},
		Forgotten: n.Refusals.Forgotten,
	}
	if n.IPv6.Address.IsValid() {
		resp.Ipv6Address = n.IPv6.Address.String()
	}
	for _, r := range n.Refusals.Items {
		resp.Refusals = append(resp.Refusals, refusal(r))
	}
	return resp, nil
}

// policy reads a policy; nil is that of a caller that knows of none.
func policy(m *pb.NetworkPolicy) (models.NetworkPolicy, error) {
	if m == nil {
		return models.DefaultNetwork(), nil
	}
	l := m.GetLimits()
	p := models.NetworkPolicy{
		Generation: m.GetGeneration(), Internet: m.GetInternet(), IPv6: m.GetIpv6(),
		Limits: models.NetworkLimits{
			UploadMbit: int(l.GetUploadMbit()), DownloadMbit: int(l.GetDownloadMbit()), PacketsPerSecond: int(l.GetPacketsPerSecond()),
			Connections: int(l.GetConnections()), ConnectionsPerSecond: int(l.GetConnectionsPerSecond()),
		},
	}
	var err error
	if p.Allow, err = models.ParseDestinations("allow", m.GetAllow()); err != nil {
		return p, err
	}
	p.Deny, err = models.ParseDestinations("deny", m.GetDeny())
	return p, err
}

func refusal(r models.NetworkRefusal) *pb.NetworkRefusal {
	m := &pb.NetworkRefusal{
		FirstAt: timestamppb.New(r.First), LastAt: timestamppb.New(r.Last), Protocol: r.Protocol,
		Name: r.Name, Rule: r.Rule, Why: r.Why, Count: r.Count,
	}
	if r.To.IsValid() {
		m.Address, m.Port = r.To.Addr().String(), int32(r.To.Port())
	}
	return m
}
