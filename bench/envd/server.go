package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
)

// endpoint is where a server is and how it lets one in.
type endpoint struct {
	url, token, user string
	pid              int
}

// server is a client of one server. Its two protocols share connections.
type server struct {
	endpoint
	http         *http.Client
	json, binary processconnect.ProcessClient
	path         string // of the file on the server
	wrote        bool   // whether it may be there
	form         bool   // whether the server takes files only in forms
}

func newServer(e endpoint, dir string) *server {
	e.url = strings.TrimSuffix(e.url, "/")
	transport := &http.Transport{
		MaxIdleConnsPerHost: 256, DisableCompression: true, ReadBufferSize: 128 << 10, WriteBufferSize: 128 << 10,
	}
	s := &server{endpoint: e, path: path.Join(dir, "wrenn-bench-"+rand.Text())}
	s.http = &http.Client{Transport: authorized{s, transport}}
	plain := connect.WithAcceptCompression("gzip", nil, nil) // as the released clients, which ask for none
	s.json = processconnect.NewProcessClient(s.http, e.url, plain, connect.WithProtoJSON())
	s.binary = processconnect.NewProcessClient(s.http, e.url, plain)
	return s
}

// authorized adds to each request what the server wants to see.
type authorized struct {
	server *server
	next   http.RoundTripper
}

func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if a.server.token != "" {
		r.Header.Set("X-Access-Token", a.server.token)
	}
	if a.server.user != "" {
		r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(a.server.user+":")))
	}
	return a.next.RoundTrip(r)
}

// exec runs a process to its end, which must be exit status 0, and returns how much it wrote.
func (s *server) exec(ctx context.Context, client processconnect.ProcessClient, cmd string, args ...string) (written int64, err error) {
	stream, err := client.Start(ctx, connect.NewRequest(start(cmd, args...)))
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	var end *process.ProcessEvent_EndEvent
	for stream.Receive() {
		event := stream.Msg().GetEvent()
		written += int64(len(event.GetData().GetStdout()))
		if event.GetEnd() != nil {
			end = event.GetEnd()
		}
	}
	switch {
	case stream.Err() != nil:
		return 0, stream.Err()
	case end == nil:
		return 0, errors.New("the stream ended without an end event")
	case !end.Exited || end.ExitCode != 0:
		return 0, fmt.Errorf("%s ended with %s", cmd, end.Status)
	}
	return written, nil
}

// start gives a process the environment that decides how long a login shell takes: servers differ in their
// defaults, and a home has a profile.
func start(cmd string, args ...string) *process.StartRequest {
	stdin := false
	env := map[string]string{"HOME": "/", "LANG": "C.UTF-8"}
	return &process.StartRequest{Process: &process.ProcessConfig{Cmd: cmd, Args: args, Envs: env}, Stdin: &stdin}
}

// own is an envd that was started here.
type own struct {
	cmd *exec.Cmd
	url string
}

// startEnvd starts our envd on a port of its choice.
func startEnvd(ctx context.Context, binary string) (*own, error) {
	cmd := exec.Command(binary, "-listen", "127.0.0.1:0") //nolint:noctx // end ends it, in order
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	o := &own{cmd: cmd}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })() // ends the read below
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if _, address, ok := strings.Cut(lines.Text(), " on "); ok {
			o.url = "http://" + address
			go func() { // until envd ends: it must not wait for a reader
				for lines.Scan() {
					fmt.Fprintln(os.Stderr, lines.Text())
				}
			}()
			return o, nil
		}
	}
	o.end()
	return nil, fmt.Errorf("%s did not say where it listens", binary)
}

// end asks it to end, and makes it after ten seconds.
func (o *own) end() {
	_ = o.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	kill := time.AfterFunc(10*time.Second, func() { _ = o.cmd.Process.Kill() })
	defer kill.Stop()
	_ = o.cmd.Wait() // however it ended
}
