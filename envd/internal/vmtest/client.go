package vmtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
	"github.com/wrenn-sandbox/wrenn/proto/gen/envd/process/processconnect"
	"github.com/wrenn-sandbox/wrenn/proto/parts"
)

// token is the access token that Init sets.
const token = "a token for tests"

// transport adds the token to every request, and asks for what is not E2B's.
type transport struct{ http.Transport }

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("X-Access-Token", token)
	r.Header.Set("Wrenn-Extensions", "1")
	return t.Transport.RoundTrip(r)
}

// client talks HTTP to envd. Each request has a connection of its own, so that none
// outlives a Disconnect.
func (g *Guest) client() *http.Client {
	t := &transport{}
	t.DisableKeepAlives = true
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return g.Dial(ctx) }
	return &http.Client{Transport: t}
}

// Post sends body to a route of envd's and returns the answer's body. Any status but 2xx
// fails the test.
func (g *Guest) Post(route, body string) string {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://envd"+route, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := g.client().Do(request)
	if err != nil {
		g.t.Fatalf("POST %s: %v", route, err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode/100 != 2 {
		g.t.Fatalf("POST %s: %s: %s, %v", route, response.Status, answer, err)
	}
	return string(answer)
}

// Port connects to a port of the guest as the host does for others: the connection is authorized, then handed over.
func (g *Guest) Port(port int) *parts.Conn {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	conn, err := g.Dial(ctx)
	if err != nil {
		g.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(Patience))
	_, _ = fmt.Fprintf(conn, "POST /authorize HTTP/1.1\r\nHost: envd\r\nX-Access-Token: %s\r\nContent-Length: 0\r\n\r\n", token)
	_, _ = fmt.Fprintf(conn, "GET /ports/%d HTTP/1.1\r\nHost: envd\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", port, parts.Protocol)
	answers := bufio.NewReader(conn)
	for _, want := range []int{http.StatusNoContent, http.StatusSwitchingProtocols} {
		response, err := http.ReadResponse(answers, nil)
		if err != nil || response.StatusCode != want {
			g.t.Fatalf("port %d: %v, %v; want status %d", port, response, err, want)
		}
	}
	early := make([]byte, answers.Buffered())
	_, _ = io.ReadFull(answers, early) // it is there
	return parts.New(conn, early)
}

// Init takes the guest over. more are members of the request besides the token.
func (g *Guest) Init(more string) {
	g.t.Helper()
	g.Post("/init", fmt.Sprintf(`{"accessToken":%q%s}`, token, more))
}

// Run runs the probe in the guest as root and returns what it wrote. A probe that fails
// fails the test.
func (g *Guest) Run(args ...string) string {
	g.t.Helper()
	out, exit, err := g.Start("root", args...)
	if err != nil || exit != 0 {
		g.t.Fatalf("probe %v: exit code %d, %v\n%s", args, exit, err, out)
	}
	return strings.TrimSpace(out)
}

// Start runs the probe and returns its output and its exit code, -1 after a signal.
func (g *Guest) Start(user string, args ...string) (string, int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	var out bytes.Buffer
	exit, err := g.Watch(ctx, user, args, func(text []byte) { out.Write(text) })
	return out.String(), exit, err
}

// Watch runs the probe and hands on its output as it comes, until the probe or ctx ends.
func (g *Guest) Watch(ctx context.Context, user string, args []string, output func([]byte)) (int, error) {
	noInput := false
	request := connect.NewRequest(&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "/usr/local/bin/probe", Args: args}, Stdin: &noInput})
	request.Header().Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":")))
	stream, err := processconnect.NewProcessClient(g.client(), "http://envd").Start(ctx, request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		event := stream.Msg().GetEvent()
		for _, text := range [][]byte{event.GetData().GetStdout(), event.GetData().GetStderr()} {
			if len(text) > 0 {
				output(text)
			}
		}
		if end := event.GetEnd(); end != nil {
			return int(end.GetExitCode()), nil
		}
	}
	return 0, fmt.Errorf("the stream ended early: %w", stream.Err())
}
