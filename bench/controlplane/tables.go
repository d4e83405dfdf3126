package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// A small table beside which the large one is to be as fast.
const smallSandboxes, smallHosts = 1000, 10

func (b *bench) small(ctx context.Context) error {
	return b.onStage(ctx, plan{hosts: smallHosts, accounts: 1, sandboxes: smallSandboxes}, func(ctx context.Context, s *stage) error { return b.tables(ctx, s, "1k") })
}

func (b *bench) large(ctx context.Context) error {
	return b.onStage(ctx, plan{hosts: b.sandboxes / 100, accounts: 1, sandboxes: b.sandboxes}, func(ctx context.Context, s *stage) error {
		return b.tables(ctx, s, fmt.Sprintf("%dk", b.sandboxes/1000))
	})
}

// tables measures what does not depend on how many sandboxes and hosts there are.
func (b *bench) tables(ctx context.Context, s *stage, size string) error {
	var lists, gets, places []float64
	for i := range b.rounds {
		list, err := timed(func() error {
			_, err := s.call(ctx, s.keys[0], http.MethodGet, "/v1/sandboxes", nil, http.StatusOK)
			return err
		})
		if err != nil {
			return err
		}
		get, err := timed(func() error {
			_, err := s.call(ctx, s.keys[0], http.MethodGet, fmt.Sprintf("/v1/sandboxes/%s", rowID(i*s.sandboxes/b.rounds)), nil, http.StatusOK)
			return err
		})
		if err != nil {
			return err
		}
		sb, err := s.create(ctx, i)
		if err != nil {
			return err
		}
		lists, gets, places = append(lists, list), append(gets, get), append(places, placed(sb))
	}
	beside := fmt.Sprintf("with %d sandboxes on %d hosts, one after the other", s.sandboxes, len(s.hosts))
	b.add("cp_list_ms_at_"+size, "ms", "GET /v1/sandboxes (50 of them) "+beside, lists...)
	b.add("cp_get_ms_at_"+size, "ms", "GET /v1/sandboxes/{id} "+beside, gets...)
	b.add(fmt.Sprintf("placement_ms_at_%d_hosts", len(s.hosts)), "ms", "the step place of a create: chosen, locked, committed; "+beside, places...)
	return nil
}

// placed is what the placement of a sandbox has taken, in milliseconds.
func placed(sb created) (ms float64) {
	for _, step := range sb.Timings {
		if step.Step == "place" {
			ms += step.MS
		}
	}
	return ms
}

func rowID(n int) string { return fmt.Sprintf("sb-%08x", n) }

// populate has sandboxes of the first account run already, spread over the hosts: in the table, in the account's count and on the hosts.
func (s *stage) populate(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.stack.PostgresURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for i, h := range s.hosts {
		const row = `INSERT INTO hosts (id, name, address, state, agent_version, driver, driver_version, accelerator, vcpus, memory_mib, disk_mib, reflinks, templates)
			VALUES ($1, 'sim', $2, 'ready', '', '', '', '', 1, 1, 1, true, '[]')` // the control plane completes it when it has connected
		if _, err := conn.Exec(ctx, row, string(hostID(i)), h.Address()); err != nil {
			return fmt.Errorf("insert a host: %w", err)
		}
	}
	if err := s.copyRows(ctx, conn); err != nil {
		return err
	}
	for _, statement := range []string{
		`UPDATE accounts a SET used_vcpus = s.n, used_memory_mib = 256 * s.n, used_disk_mib = 512 * s.n, used_sandboxes = s.n
			FROM (SELECT account_id, count(*) AS n FROM sandboxes GROUP BY account_id) AS s WHERE s.account_id = a.id`,
		"VACUUM ANALYZE",
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("complete the tables: %w", err)
		}
	}
	return nil
}

func (s *stage) copyRows(ctx context.Context, conn *pgx.Conn) error {
	began := time.Now().Add(-time.Hour)
	columns := []string{"id", "account_id", "host_id", "name", "template", "vcpus", "memory_mib", "disk_mib", "metadata", "state", "generation", "reason", "operation",
		"created_at", "started_at", "updated_at"}
	_, err := conn.CopyFrom(ctx, pgx.Identifier{"sandboxes"}, columns, pgx.CopyFromSlice(s.sandboxes, func(n int) ([]any, error) {
		host, at := n%len(s.hosts), began.Add(time.Duration(n)*time.Millisecond)
		s.hosts[host].Hold(&pb.Sandbox{
			SandboxId: rowID(n), State: pb.SandboxState_SANDBOX_STATE_RUNNING, Template: "minimal", Vcpus: 1, MemoryMib: 256, DiskMib: 512,
			CreatedAt: timestamppb.New(at), NetworkGeneration: 1,
		})
		return []any{rowID(n), string(s.account), string(hostID(host)), "", "minimal", 1, 256, 512, map[string]string{"n": fmt.Sprint(n)}, "running", 3, "", "bench", at, at, at}, nil
	}))
	if err != nil {
		return fmt.Errorf("copy sandboxes into the table: %w", err)
	}
	return nil
}
