package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/bench/smaps"
	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
)

// memory reads what the servers take when idle and under many idle processes. It goes first: what a
// server has once used it may keep.
func (b *bench) memory(ctx context.Context) error {
	for _, s := range b.servers {
		if err := s.findPID(); err != nil {
			fmt.Fprintf(os.Stderr, "bench-envd: the memory of %s is not read: %v\n", s.url, err)
		}
	}
	idle := "idle, before any other measurement"
	if err := b.readMemory("idle", idle, func(*server) (func() error, error) { return func() error { return nil }, nil }); err != nil {
		return err
	}
	busy := fmt.Sprintf("with %d idle processes, each followed by a client", b.processes)
	return b.readMemory(strconv.Itoa(b.processes)+"_processes", busy, func(s *server) (func() error, error) { return s.crowd(ctx, b.processes) })
}

// readMemory notes the resident and the proportional set size of each server while under holds.
func (b *bench) readMemory(name, how string, under func(*server) (end func() error, err error)) error {
	rss := kind{name: "envd_rss_" + name + "_mib", unit: "MiB", how: "RSS " + how, samples: make([][]float64, len(b.servers))}
	pss := kind{name: "envd_pss_" + name + "_mib", unit: "MiB", how: "PSS " + how, samples: make([][]float64, len(b.servers))}
	for at, s := range b.servers {
		if s.pid == 0 {
			continue
		}
		end, err := under(s)
		if err != nil {
			return err
		}
		sizes, err := smaps.Sums(s.pid)
		if err := errors.Join(err, end()); err != nil {
			return err
		}
		rss.samples[at], pss.samples[at] = []float64{sizes["Rss"]}, []float64{sizes["Pss"]}
	}
	b.kinds = append(b.kinds, rss, pss)
	return nil
}

// crowd starts n processes that do nothing. end kills them, and waits until each call has ended.
func (s *server) crowd(ctx context.Context, n int) (end func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var streams []*connect.ServerStreamForClient[process.StartResponse]
	end = func() error {
		defer cancel()
		failed := make([]error, len(streams))
		for i, stream := range streams {
			failed[i] = s.endOf(ctx, stream)
		}
		return errors.Join(failed...)
	}
	for range n {
		stream, err := s.binary.Start(ctx, connect.NewRequest(start("/bin/sleep", "600")))
		if err == nil {
			streams = append(streams, stream)
			if !stream.Receive() {
				err = errors.Join(errors.New("no start event"), stream.Err())
			}
		}
		if err != nil {
			return nil, errors.Join(err, end())
		}
	}
	return end, nil
}

func (s *server) endOf(ctx context.Context, stream *connect.ServerStreamForClient[process.StartResponse]) error {
	defer stream.Close()
	pid := stream.Msg().GetEvent().GetStart().GetPid()
	if pid == 0 {
		return nil // it never started
	}
	if err := signal9(ctx, s.binary, pid); err != nil {
		return err
	}
	for stream.Receive() { // until the end event and after it
	}
	return stream.Err()
}

func signal9(ctx context.Context, client processconnect.ProcessClient, pid uint32) error {
	_, err := client.SendSignal(ctx, connect.NewRequest(&process.SendSignalRequest{
		Process: &process.ProcessSelector{Selector: &process.ProcessSelector_Pid{Pid: pid}},
		Signal:  process.Signal_SIGNAL_SIGKILL,
	}))
	return err
}

// findPID finds the process that listens on the server's port, if the server is on this machine.
func (s *server) findPID() error {
	if s.pid != 0 {
		return nil
	}
	at, err := url.Parse(s.url)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(at.Hostname()); at.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("it is not on this machine's loopback")
	}
	port, err := strconv.ParseUint(at.Port(), 10, 16)
	if err != nil {
		return fmt.Errorf("its port: %w", err)
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if inode := listener(table, port); inode != "" {
			s.pid, err = holder("socket:[" + inode + "]")
			return err
		}
	}
	return fmt.Errorf("nothing listens on port %d here", port)
}

// listener returns the inode of the socket that listens on port: proc_net_tcp(5), whose state 0A is LISTEN.
func listener(table string, port uint64) string {
	text, err := os.ReadFile(table)
	if err != nil {
		return "" // no IPv6
	}
	suffix := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && strings.HasSuffix(fields[1], suffix) && fields[3] == "0A" {
			return fields[9]
		}
	}
	return ""
}

// holder returns the process that has a descriptor which leads to link.
func holder(link string) (int, error) {
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, err
	}
	for _, name := range descriptors {
		if to, err := os.Readlink(name); err == nil && to == link {
			return strconv.Atoi(strings.Split(name, "/")[2])
		}
	}
	return 0, errors.New("no process here has its socket")
}
