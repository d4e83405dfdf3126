package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// server answers with what it was asked, streams events, and echoes over a WebSocket (RFC 6455; short frames alone). It listens
// on loopback, as servers for development do.
const server = `
import base64, hashlib, http.server, json, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket": return self.echo()
        if self.path == "/events": return self.events()
        body = json.dumps({"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200); self.send_header("Content-Length", len(body)); self.end_headers(); self.wfile.write(body)
    def events(self):
        self.send_response(200); self.send_header("Content-Type", "text/event-stream"); self.send_header("Connection", "close"); self.end_headers()
        self.wfile.write(b"data: first\n\n"); self.wfile.flush(); time.sleep(3600)
    def echo(self):
        accept = base64.b64encode(hashlib.sha1((self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        self.send_response(101); self.send_header("Upgrade", "websocket"); self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept); self.end_headers(); self.wfile.flush()
        while True:
            head = self.rfile.read(2); size = head[1] & 127; mask = self.rfile.read(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(size)))
            self.wfile.write(bytes([head[0], size]) + data); self.wfile.flush()
            if head[0] & 15 == 8: return
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
`

// TestPortsInVM: servers in a sandbox are reached from outside, by who may, and learn nothing of how.
func TestPortsInVM(t *testing.T) {
	p := start(t)
	id := p.create("python311").ID
	if _, err := p.client.WriteFile(p.context(), id, "/home/user/server.py", strings.NewReader(server)); err != nil {
		t.Fatal(err)
	}
	if status, err := p.rest("POST", "/v1/sandboxes/"+id+"/processes", map[string]any{"cmd": "python3", "args": []string{"server.py"}}, nil); err != nil || status != 201 {
		t.Fatalf("%d, %v", status, err)
	}
	port := "/v1/sandboxes/" + id + "/ports/8080"
	p.eventually("the server answers", func(context.Context) error {
		if status, _, err := p.visit(port+"/", "X-API-Key", p.key); err != nil || status != http.StatusOK {
			return fmt.Errorf("status %d, %w", status, err)
		}
		return nil
	})
	var grant, brief struct{ Token string }
	for seconds, g := range map[int]*struct{ Token string }{300: &grant, 1: &brief} {
		if status, err := p.rest("POST", "/v1/sandboxes/"+id+"/port-tokens", map[string]any{"port": 8080, "expires_in_seconds": seconds}, g); err != nil || status != 201 {
			t.Fatalf("token: %d, %v", status, err)
		}
	}
	status, body, err := p.visit(port+"/a/b?x=1&wrenn_port_token="+grant.Token, "Cookie", "mine=1; wrenn_port_token="+grant.Token)
	var seen struct {
		Path    string
		Headers map[string]string
	}
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &seen) != nil {
		t.Fatalf("with a token: %d %s, %v", status, body, err)
	}
	if seen.Path != "/a/b?x=1" || seen.Headers["cookie"] != "mine=1" || strings.Contains(string(body), grant.Token) || strings.Contains(string(body), p.key) {
		t.Errorf("the server saw %s", body)
	}
	for _, c := range []struct {
		name, path, header, value string
		status                    int
	}{
		{"no credentials", port + "/", "", "", http.StatusUnauthorized},
		{"a wrong token", port + "/", "X-Wrenn-Port-Token", grant.Token + "x", http.StatusUnauthorized},
		{"another port with the token", "/v1/sandboxes/" + id + "/ports/8081/", "X-Wrenn-Port-Token", grant.Token, http.StatusForbidden},
		{"nothing listens", "/v1/sandboxes/" + id + "/ports/8081/", "X-API-Key", p.key, http.StatusBadGateway},
		{"envd's own port", "/v1/sandboxes/" + id + "/ports/49983/health", "X-API-Key", p.key, http.StatusBadGateway},
	} {
		if status, body, err := p.visit(c.path, c.header, c.value); err != nil || status != c.status {
			t.Errorf("%s: %d %s, %v; want %d", c.name, status, body, err, c.status)
		}
	}
	p.eventsAndEcho(t, port)
	p.eventually("a token expires", func(context.Context) error {
		if status, _, err := p.visit(port+"/", "X-Wrenn-Port-Token", brief.Token); err != nil || status != http.StatusUnauthorized {
			return fmt.Errorf("status %d, %w", status, err)
		}
		return nil
	})
	p.destroy(id)
}

// visit makes a request with one header.
func (p *platform) visit(path, header, value string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(p.context(), http.MethodGet, p.url+path, nil)
	if err != nil {
		return 0, nil, err
	}
	if header != "" {
		req.Header.Set(header, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// eventsAndEcho: an event arrives while its response goes on, and a WebSocket works both ways.
func (p *platform) eventsAndEcho(t *testing.T, port string) {
	t.Helper()
	req, err := http.NewRequestWithContext(p.context(), http.MethodGet, p.url+port+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", p.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "data: first\n" {
		t.Errorf("the first event: %q, %v", line, err)
	}
	conn, _, err := websocket.Dial(p.context(), p.url+port+"/echo", &websocket.DialOptions{HTTPHeader: http.Header{"X-Api-Key": {p.key}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	for _, text := range []string{"one", "two"} {
		if err := conn.Write(p.context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, back, err := conn.Read(p.context()); err != nil || string(back) != text {
			t.Errorf("%q came back as %q, %v", text, back, err)
		}
	}
}

// TestTerminalInVM: a shell on a terminal survives its connection, and is attached to again where it was.
func TestTerminalInVM(t *testing.T) {
	p := start(t)
	id := p.create("minimal").ID
	term := p.terminal(id, wrenn.TerminalRequest{Size: wrenn.TerminalSize{Cols: 100, Rows: 30}})
	p.says(term, "stty size; id -un; echo $((6*7))\n", "30 100", "user", "42")
	if err := term.Resize(p.context(), wrenn.TerminalSize{Cols: 120, Rows: 40}); err != nil {
		t.Fatal(err)
	}
	p.says(term, "stty size; MINE=kept\n", "40 120")
	_ = term.Close() // the connection alone
	again := p.terminal(id, wrenn.TerminalRequest{ID: term.ID, Offset: term.Offset()})
	p.says(again, "echo [$MINE]; exit 3\n", "[kept]")
	for {
		event, err := again.Read(p.context())
		if err != nil {
			t.Fatal(err)
		}
		if event.Kind == wrenn.Exited {
			if event.Exit.ExitCode != 3 {
				t.Errorf("the shell ended with %+v", event.Exit)
			}
			break
		}
	}
	_ = again.Close()
	p.destroy(id)
}

func (p *platform) terminal(id string, req wrenn.TerminalRequest) *wrenn.Terminal {
	p.t.Helper()
	term, err := p.client.OpenTerminal(p.context(), id, req)
	if err != nil {
		p.t.Fatal(err)
	}
	return term
}

// says types a line and waits until the terminal has shown each of the texts.
func (p *platform) says(term *wrenn.Terminal, line string, texts ...string) {
	p.t.Helper()
	if err := term.Write(p.context(), []byte(line)); err != nil {
		p.t.Fatal(err)
	}
	var shown strings.Builder
	for missing := texts; len(missing) > 0; {
		event, err := term.Read(p.context())
		if err != nil {
			p.t.Fatalf("%v; it has shown %q", err, shown.String())
		}
		shown.Write(event.Data)
		for len(missing) > 0 && strings.Contains(shown.String(), missing[0]) {
			missing = missing[1:]
		}
	}
}

// TestCommandLine: the program that users have, on a real sandbox.
func TestCommandLine(t *testing.T) {
	p := start(t)
	id := p.create("python311").ID
	dir := t.TempDir()
	for _, c := range []struct {
		line, stdin, want string
		status            int
	}{
		{"exec " + id + " -- sh -c 'cat; echo err >&2; exit 7'", "piped", "piped", 7},
		{"exec " + id + " -- sh -c 'seq 3000000 | tail -1'", "", "3000000\n", 0},
		{"exec " + id + " -- seq 1000000 | tail -c 8", "", "1000000\n", 0},
		{"cp - " + id + ":/home/user/in.txt", "content", "", 0},
		{"cp " + id + ":/home/user/in.txt -", "", "content", 0},
		{"exec " + id + " -- sh -c 'mkdir -p d/e; echo 1 > d/e/f; chmod 700 d/e/f'", "", "", 0},
		{"cp " + id + ":/home/user/d " + dir + "/d && stat -c %a " + dir + "/d/e/f", "", "700\n", 0},
		{"run " + id + " -", "print('hi'); 6*7", "hi\n42\n", 0},
		{"ps " + id + " | grep -c CMD || true", "", "", 0},
	} {
		cmd := exec.CommandContext(p.context(), "/bin/bash", "-o", "pipefail", "-c", filepath.Join(binaries, "wrenn")+" "+c.line)
		cmd.Env = append(p.env, "WRENN_URL="+p.url, "WRENN_API_KEY="+p.key)
		cmd.Stdin = strings.NewReader(c.stdin)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, _ := cmd.Output() // its status tells
		if status := cmd.ProcessState.ExitCode(); status != c.status || c.want != "" && string(out) != c.want {
			t.Errorf("wrenn %s: status %d, %.200q, %.400q", c.line, status, out, stderr.String())
		}
	}
	p.destroy(id)
}
