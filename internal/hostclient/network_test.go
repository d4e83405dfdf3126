package hostclient_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// TestNetwork: a policy arrives as it is, and what the host tells comes back as it is.
func TestNetwork(t *testing.T) {
	c, sim := running(t)
	allow, err := models.ParseDestinations("allow", []string{"192.0.2.0/24", "*.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	policy := models.NetworkPolicy{Generation: 5, Internet: true, Allow: allow, Limits: models.NetworkLimits{
		UploadMbit: 1, DownloadMbit: 2, PacketsPerSecond: 3, Connections: 4, ConnectionsPerSecond: 5,
	}}
	if got, err := c.SetNetwork(t.Context(), sb, policy); err != nil || got != 5 {
		t.Fatalf("SetNetwork = %d, %v", got, err)
	}
	policy.Generation = 4 // older
	if got, err := c.SetNetwork(t.Context(), sb, policy); err != nil || got != 5 {
		t.Errorf("SetNetwork = %d, %v", got, err)
	}
	if got, err := c.Sandbox(t.Context(), sb); err != nil || got.NetworkGeneration != 5 {
		t.Errorf("Sandbox = %+v, %v", got, err)
	}
	first := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	told := sim.Network(sb, func(n *pb.GetNetworkResponse) {
		n.Forgotten = 3
		n.Counters = &pb.NetworkCounters{SentPackets: 1, SentBytes: 2, ReceivedPackets: 3, ReceivedBytes: 4, DroppedPackets: map[string]uint64{"x": 5}}
		n.Refusals = []*pb.NetworkRefusal{
			{FirstAt: timestamppb.New(first), LastAt: timestamppb.New(first), Protocol: "tcp", Address: "192.0.2.1", Port: 80, Rule: "r", Why: "w", Count: 2},
			{Protocol: "dns", Name: "a.example", Rule: "r", Why: "w", Count: 1},
		}
	}).GetPolicy()
	l := told.GetLimits()
	if !told.GetInternet() || !slices.Equal(told.GetAllow(), []string{"192.0.2.0/24", "*.example.com"}) ||
		l.GetUploadMbit() != 1 || l.GetDownloadMbit() != 2 || l.GetPacketsPerSecond() != 3 || l.GetConnections() != 4 || l.GetConnectionsPerSecond() != 5 {
		t.Errorf("the host was told %v", told)
	}
	n, err := c.Network(t.Context(), sb)
	if err != nil || n.Generation != 5 || n.Counters.ReceivedBytes != 4 || n.Counters.Dropped["x"] != 5 || n.Refusals.Forgotten != 3 || len(n.Refusals.Items) != 2 {
		t.Fatalf("%+v, %v", n, err)
	}
	if r := n.Refusals.Items[0]; r.To != netip.MustParseAddrPort("192.0.2.1:80") || r.First != first || r.Count != 2 || n.Refusals.Items[1].To.IsValid() {
		t.Errorf("%+v", n.Refusals)
	}
	sim.Network(sb, func(n *pb.GetNetworkResponse) { n.Refusals[0].Address = "nowhere" })
	if _, err := c.Network(t.Context(), sb); err == nil {
		t.Error("an answer that makes no sense was believed")
	}
	if _, err := c.SetNetwork(t.Context(), "sb-ffffffff", policy); models.CodeOf(err) != models.NotFound {
		t.Errorf("a sandbox that is not there: %v", err)
	}
}
