package devstack

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/devstack/child"
)

// RedisDatabases is how many numbered databases the Redis server has; stacktest gives each test one.
const RedisDatabases = 1024

// redis is the cache server of one stack.
type redis struct {
	program string
	data    string
	run     string
	owner   owner
	noSync  bool
	log     *child.Log
}

var redisStop = []child.Step{{Signal: syscall.SIGTERM, Grace: 10 * time.Second}}

// url names a numbered database of this server in the form that go-redis reads.
func (r *redis) url(db int) string {
	return (&url.URL{Scheme: "unix", Path: r.socket(), RawQuery: fmt.Sprintf("db=%d", db)}).String()
}

func (r *redis) socket() string { return filepath.Join(r.run, redisSocket) }

// start runs the server and waits until it answers.
func (r *redis) start(ctx context.Context) (*child.Process, error) {
	if err := child.EndLeftover(ctx, r.pidFile(), r.data, syscall.SIGTERM, syscall.SIGKILL); err != nil {
		return nil, fmt.Errorf("end left-over Redis: %w", err)
	}
	proc, err := child.Start(child.Spec{
		Path: r.program, Args: r.args(), Env: serverEnv(), Dir: r.data, Credential: r.owner.credential,
		DeathSignal: syscall.SIGTERM, Stdout: r.log, Stderr: r.log,
	})
	if err != nil {
		return nil, err
	}
	if err := proc.WaitReady(ctx, r.answers); err != nil {
		proc.Stop(context.WithoutCancel(ctx), redisStop...)
		return nil, fmt.Errorf("start Redis: %w; its log ends: %s", err, strings.TrimSpace(r.log.Tail(1024)))
	}
	return proc, nil
}

func (r *redis) pidFile() string { return filepath.Join(r.data, "redis.pid") }

// args keep what is in memory over an orderly end and at most 15 minutes less of it
// over a crash; with noSync nothing is written at all.
func (r *redis) args() []string {
	save := "900 1"
	if r.noSync {
		save = ""
	}
	return []string{
		"--port", "0", "--unixsocket", r.socket(), "--unixsocketperm", "700", "--dir", r.data,
		"--pidfile", r.pidFile(), "--daemonize", "no", "--logfile", "", "--save", save, "--appendonly", "no",
		"--databases", fmt.Sprint(RedisDatabases), "--stop-writes-on-bgsave-error", "no",
	}
}

// answers sends PING. While the server still loads its data it answers -LOADING.
func (r *redis) answers(ctx context.Context) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", r.socket())
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.TrimSpace(line) == "+PONG"
}
