package hostclient

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/wrenn-sandbox/wrenn/internal/grpcerr"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// SetNetwork puts a policy in force, and returns the generation of the one that is in force then: its own, or
// that of a newer one. It is safe to repeat.
func (c *Client) SetNetwork(ctx context.Context, sb id.Sandbox, p models.NetworkPolicy) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, promptLimit)
	defer cancel()
	resp, err := c.api.SetNetworkPolicy(ctx, &pb.SetNetworkPolicyRequest{SandboxId: string(sb), Policy: policyMessage(p)})
	return resp.GetGeneration(), grpcerr.Decode(err)
}

// Network is what a host tells of a sandbox's network.
type Network struct {
	Generation int64 // of the policy in force
	IPv6       models.NetworkIPv6
	Counters   models.NetworkCounters
	Refusals   models.NetworkRefusals
}

// Network asks what a sandbox's network has carried and refused.
func (c *Client) Network(ctx context.Context, sb id.Sandbox) (Network, error) {
	ctx, cancel := context.WithTimeout(ctx, promptLimit)
	defer cancel()
	resp, err := c.api.GetNetwork(ctx, &pb.GetNetworkRequest{SandboxId: string(sb)})
	if err != nil {
		return Network{}, grpcerr.Decode(err)
	}
	n := Network{Generation: resp.GetPolicy().GetGeneration(), Counters: counters(resp.GetCounters())}
	n.Refusals.Forgotten = resp.GetForgotten()
	n.IPv6.Why = resp.GetIpv6Why()
	if text := resp.GetIpv6Address(); text != "" {
		if n.IPv6.Address, err = netip.ParseAddr(text); err != nil {
			return Network{}, fmt.Errorf("host agent's answer: %w", err)
		}
	}
	for _, m := range resp.GetRefusals() {
		r, err := refusal(m)
		if err != nil {
			return Network{}, fmt.Errorf("host agent's answer: %w", err)
		}
		n.Refusals.Items = append(n.Refusals.Items, r)
	}
	return n, nil
}

func policyMessage(p models.NetworkPolicy) *pb.NetworkPolicy {
	return &pb.NetworkPolicy{
		Generation: p.Generation, Internet: p.Internet, Ipv6: p.IPv6, Allow: models.DestinationTexts(p.Allow), Deny: models.DestinationTexts(p.Deny),
		Limits: &pb.NetworkLimits{
			UploadMbit: int32(p.Limits.UploadMbit), DownloadMbit: int32(p.Limits.DownloadMbit),
			PacketsPerSecond: int32(p.Limits.PacketsPerSecond),
			Connections:      int32(p.Limits.Connections), ConnectionsPerSecond: int32(p.Limits.ConnectionsPerSecond),
		},
	}
}

func counters(m *pb.NetworkCounters) models.NetworkCounters {
	return models.NetworkCounters{
		SentPackets: m.GetSentPackets(), SentBytes: m.GetSentBytes(),
		ReceivedPackets: m.GetReceivedPackets(), ReceivedBytes: m.GetReceivedBytes(), Dropped: m.GetDroppedPackets(),
	}
}

func refusal(m *pb.NetworkRefusal) (models.NetworkRefusal, error) {
	r := models.NetworkRefusal{
		First: m.GetFirstAt().AsTime(), Last: m.GetLastAt().AsTime(), Protocol: m.GetProtocol(),
		Name: m.GetName(), Rule: m.GetRule(), Why: m.GetWhy(), Count: m.GetCount(),
	}
	if m.GetAddress() == "" {
		return r, nil
	}
	addr, err := netip.ParseAddr(m.GetAddress())
	r.To = netip.AddrPortFrom(addr, uint16(m.GetPort()))
	return r, err
}
