package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-sandbox/wrenn/internal/config"
	"github.com/wrenn-sandbox/wrenn/internal/durable"
	"github.com/wrenn-sandbox/wrenn/internal/id"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// host is who this host is: an id made once and kept in the data folder.
type host struct {
	id    id.Host
	name  string
	parts *parts
	log   *slog.Logger
}

func newHost(cfg config.Agent, p *parts, log *slog.Logger) (*host, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read the host's name: %w", err)
	}
	path := filepath.Join(cfg.Data, "host-id")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text = []byte(id.NewHost())
		err = durable.WriteFile(path, text, 0o644)
	}
	if err != nil {
		return nil, fmt.Errorf("keep the host's id: %w", err)
	}
	hostID, err := id.ParseHost(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("read the host's id in %s: %w", path, err)
	}
	return &host{id: hostID, name: name, parts: p, log: log}, nil
}

// info answers GetHostInfo.
func (h *host) info(context.Context) (*pb.GetHostInfoResponse, error) {
	var mem unix.Sysinfo_t
	if err := unix.Sysinfo(&mem); err != nil {
		return nil, fmt.Errorf("read the host's memory: %w", err)
	}
	disk, err := h.parts.images.Info()
	if err != nil {
		return nil, fmt.Errorf("read the host's disk: %w", err)
	}
	templates, err := h.parts.images.Templates()
	if err != nil {
		h.log.Warn("some templates cannot be read", "error", err)
	}
	driver := h.parts.driver.Info()
	resp := &pb.GetHostInfoResponse{
		HostId: string(h.id), Hostname: h.name, AgentVersion: version,
		Driver: driver.Driver, DriverVersion: driver.Version, Accelerator: driver.Accelerator,
		Vcpus: int32(runtime.NumCPU()), MemoryMib: int64(mem.Totalram) * int64(mem.Unit) >> 20,
		OverheadMib: int64(driver.OverheadMiB), DiskMib: disk.TotalMiB, Reflinks: disk.Reflinks,
	}
	_, noArchive := h.parts.agent.Archive()
	resp.Archive = noArchive == nil
	for _, t := range templates {
		resp.Templates = append(resp.Templates, &pb.Template{
			Name: t.Name, Digest: t.Digest, DiskMib: int32(t.DiskMiB), Description: t.Description,
			DefaultVcpus: int32(t.DefaultVCPUs), DefaultMemoryMib: int32(t.DefaultMemoryMiB),
		})
	}
	for _, g := range h.parts.agent.GoldenSnapshots() {
		one := &pb.GoldenSnapshot{
			SnapshotId: g.ID, Template: g.Template, Digest: g.Digest, CreatedAt: timestamppb.New(g.CreatedAt), Bytes: g.Bytes,
			Vcpus: int32(g.Size.VCPUs), MemoryMib: int32(g.Size.MemoryMiB), DiskMib: int32(g.Size.DiskMiB),
		}
		if !g.Verified.IsZero() {
			one.VerifiedAt = timestamppb.New(g.Verified)
		}
		resp.GoldenSnapshots = append(resp.GoldenSnapshots, one)
	}
	for _, p := range h.parts.agent.Pool() {
		resp.Pool = append(resp.Pool, &pb.PooledVMs{
			Template: p.Template, Vcpus: int32(p.Size.VCPUs), MemoryMib: int32(p.Size.MemoryMiB), DiskMib: int32(p.Size.DiskMiB), Count: int32(p.Count),
		})
	}
	return resp, nil
}
