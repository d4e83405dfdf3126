package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ticksPerSecond is the unit of times in /proc (sysconf(_SC_CLK_TCK)), which is the same on all architectures that Go runs on.
const ticksPerSecond = 100

// cost is what has been used so far: milliseconds of processors, and transactions.
type cost struct {
	controlPlane, postgres, load float64
	transactions                 int64
}

// cost reads what the parts of the stage have used.
func (s *stage) cost(ctx context.Context) (c cost, err error) {
	pid, err := os.ReadFile(filepath.Join(s.dir, "postgres", "postmaster.pid"))
	if err != nil {
		return c, err
	}
	postmaster, _, _ := strings.Cut(string(pid), "\n")
	if c.controlPlane, err = processors(strconv.Itoa(s.process.Process.Pid)); err != nil {
		return c, err
	}
	if c.postgres, err = processors(postmaster); err != nil {
		return c, err
	}
	if c.load, err = processors(strconv.Itoa(os.Getpid())); err != nil {
		return c, err
	}
	conn, err := pgx.Connect(ctx, s.stack.PostgresURL)
	if err != nil {
		return c, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").Scan(&c.transactions)
	return c, err
}

// processors returns the milliseconds that a process and its children have used.
func processors(pid string) (float64, error) {
	sum, err := ticks(filepath.Join("/proc", pid, "stat"), "")
	if err != nil {
		return 0, err
	}
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	if pid != strconv.Itoa(os.Getpid()) { // its children are the parts that are counted by themselves
		for _, path := range all {
			n, _ := ticks(path, pid) // one that has ended meanwhile is its parent's
			sum += n
		}
	}
	return float64(sum) * 1000 / ticksPerSecond, nil
}

// ticks returns what a process has used, with its children that have ended; 0 where it has another parent, if one is given. See proc(5).
func ticks(path, parent string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third on
	const ppid, utime, times = 1, 11, 4
	if len(fields) < utime+times {
		return 0, fmt.Errorf("%s is not as expected", path)
	}
	if parent != "" && fields[ppid] != parent {
		return 0, nil
	}
	sum := 0
	for _, field := range fields[utime : utime+2] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", path, err)
		}
		sum += n
	}
	return sum, nil
}

// costs adds what each of n creates has cost since before.
func (b *bench) costs(ctx context.Context, s *stage, before cost, n float64) error {
	now, err := s.cost(ctx)
	if err != nil {
		return err
	}
	const how = "milliseconds of processor time a create of that load, of "
	b.add("cp_create_cpu_ms", "ms", how+"the control plane", (now.controlPlane-before.controlPlane)/n)
	b.add("cp_create_postgres_cpu_ms", "ms", how+"Postgres", (now.postgres-before.postgres)/n)
	b.add("cp_create_load_cpu_ms", "ms", how+"its client and the simulated hosts", (now.load-before.load)/n)
	b.add("cp_create_transactions", "", "transactions of Postgres a create of that load, with what hosts and reconciler need meanwhile", float64(now.transactions-before.transactions)/n)
	return nil
}
