package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/wrenn-sandbox/wrenn/sdk/go"
)

// service is a fake with a sandbox, sb-00000001.
func service(t *testing.T) (*wrenn.Client, string) {
	t.Helper()
	url := newFake(t)
	client, err := wrenn.NewClient(wrenn.Options{BaseURL: url, APIKey: fakeKey})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CreateSandbox(t.Context(), wrenn.CreateSandboxRequest{Template: "python311"}); err != nil {
		t.Fatal(err)
	}
	return client, url
}

// command is this binary as wrenn, which is killed after a minute.
func command(t *testing.T, url string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Args[0] = "wrenn"
	cmd.Env = append(os.Environ(), "WRENN_URL="+url, "WRENN_API_KEY="+fakeKey, diary+"="+os.DevNull, "GORACE="+noRaceSleep)
	return cmd
}

// ended waits for a command and returns its exit status.
func ended(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// lineOf reads one line of a command's output.
func lineOf(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != want {
		t.Fatalf("a line %q, %v, not %q", line, err, want)
	}
}

func onlyProcess(t *testing.T, client *wrenn.Client) wrenn.Process {
	t.Helper()
	all, err := client.Processes(t.Context(), "sb-00000001", true)
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	return all[0]
}

func TestExecForwardsSignals(t *testing.T) {
	_, url := service(t)
	cmd := command(t, url, "exec", "sb-00000001", "--", "wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	lineOf(t, r, "ready")
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		lineOf(t, r, map[syscall.Signal]string{syscall.SIGINT: "SIGINT", syscall.SIGQUIT: "SIGQUIT", syscall.SIGTERM: "SIGTERM"}[s])
	}
	if status := ended(t, cmd); status != 143 {
		t.Errorf("status %d", status)
	}
}

func TestSecondCtrlCKills(t *testing.T) {
	client, url := service(t)
	cmd := command(t, url, "exec", "sb-00000001", "--", "wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	lineOf(t, r, "ready")
	_ = cmd.Process.Signal(syscall.SIGINT)
	lineOf(t, r, "SIGINT")
	_ = cmd.Process.Signal(syscall.SIGINT)
	if status := ended(t, cmd); status != 130 {
		t.Errorf("status %d", status)
	}
	if p := onlyProcess(t, client); p.Exit == nil || p.Exit.Signal != 9 {
		t.Errorf("it was left as %+v", p)
	}
}

// TestReaderThatGoesEndsTheProgram: as in `wrenn exec SANDBOX -- yes | head -1`.
func TestReaderThatGoesEndsTheProgram(t *testing.T) {
	client, url := service(t)
	cmd := command(t, url, "exec", "sb-00000001", "--", "yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lineOf(t, bufio.NewReader(out), "y")
	out.Close()
	if status := ended(t, cmd); status != 128+int(syscall.SIGPIPE) {
		t.Errorf("status %d", status)
	}
	if p := onlyProcess(t, client); p.Exit == nil || p.Exit.Signal != 9 {
		t.Errorf("it was left as %+v", p)
	}
}

func TestStdinStreamsWhileTheProgramRuns(t *testing.T) {
	_, url := service(t)
	cmd := command(t, url, "exec", "sb-00000001", "--", "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	for _, line := range []string{"one", "two"} {
		_, _ = io.WriteString(in, line+"\n")
		lineOf(t, r, line)
	}
	in.Close()
	if status := ended(t, cmd); status != 0 {
		t.Errorf("status %d", status)
	}
}

// TestInputThatNobodyReads: neither an input that never ends nor a program that reads nothing keeps the command.
func TestInputThatNobodyReads(t *testing.T) {
	_, url := service(t)
	for _, program := range []string{"echo", "wait"} {
		cmd := command(t, url, "exec", "sb-00000001", "--", program, "x")
		in, err := cmd.StdinPipe() // open until the end
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = in.Write(make([]byte, 4<<20)) }() // until the command ends
		if program == "wait" {
			lineOf(t, bufio.NewReader(out), "ready")
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		if status := ended(t, cmd); status != map[string]int{"echo": 0, "wait": 143}[program] {
			t.Errorf("%s: status %d", program, status)
		}
	}
}

func TestPortIsForwarded(t *testing.T) {
	_, url := service(t)
	cmd := command(t, url, "port", "sb-00000001", "8080", "--forward=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	local := strings.TrimSpace(line)
	get := func(host string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, local+"/a%2Fb?c=d", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if status, body := get("localhost:1"); status != 200 || body != "GET /v1/sandboxes/sb-00000001/ports/8080/a%2Fb?c=d localhost:1" {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := get("evil.example"); status != http.StatusMisdirectedRequest {
		t.Errorf("under a strange name: status %d", status)
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	if status := ended(t, cmd); status != 130 {
		t.Errorf("status %d", status)
	}
}

// TestTCPIsForwarded: the end of what a program sends is passed on, and it reads the answer; what breaks off is no end.
func TestTCPIsForwarded(t *testing.T) {
	_, url := service(t)
	cmd := command(t, url, "port", "sb-00000001", "5432", "--forward=0", "--tcp")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	local, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	for say, want := range map[string]string{"question": "QUESTION", "break": ""} {
		conn, err := net.Dial("tcp", strings.TrimSpace(local))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, say)
		if want != "" {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
		if got, err := io.ReadAll(conn); string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", say, got, err)
		}
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	if status := ended(t, cmd); status != 130 {
		t.Errorf("status %d", status)
	}
}

// onTerminal runs a command on a terminal of 100 columns and 30 rows.
type onTerminal struct {
	t    *testing.T
	cmd  *exec.Cmd
	tty  *os.File
	seen bytes.Buffer

	shown chan []byte
}

func startOnTerminal(t *testing.T, url string, args ...string) *onTerminal {
	t.Helper()
	o := &onTerminal{t: t, cmd: command(t, url, args...)}
	var err error
	if o.tty, err = pty.StartWithSize(o.cmd, &pty.Winsize{Cols: 100, Rows: 30}); err != nil {
		t.Fatal(err)
	}
	o.shown = make(chan []byte, 1000)
	go o.read()
	t.Cleanup(func() { o.tty.Close() })
	return o
}

// read ends with the command: the terminal is one whose reads have no deadline.
func (o *onTerminal) read() {
	defer close(o.shown)
	for {
		buf := make([]byte, 4096)
		n, err := o.tty.Read(buf)
		if n > 0 {
			o.shown <- buf[:n]
		}
		if err != nil {
			return
		}
	}
}

// control does something to the terminal.
func (o *onTerminal) control(do func(fd int) error) {
	o.t.Helper()
	raw, err := o.tty.SyscallConn()
	if err != nil {
		o.t.Fatal(err)
	}
	var failure error
	if err := errors.Join(raw.Control(func(fd uintptr) { failure = do(int(fd)) }), failure); err != nil {
		o.t.Fatal(err)
	}
}

// await reads until text was shown.
func (o *onTerminal) await(text string) {
	o.t.Helper()
	limit := time.After(20 * time.Second)
	for !strings.Contains(o.seen.String(), text) {
		select {
		case piece, more := <-o.shown:
			if !more {
				o.t.Fatalf("%q does not come in %q", text, o.seen.String())
			}
			o.seen.Write(piece)
		case <-limit:
			o.t.Fatalf("%q does not come in time in %q", text, o.seen.String())
		}
	}
	_, rest, _ := strings.Cut(o.seen.String(), text)
	o.seen.Reset()
	o.seen.WriteString(rest)
}

func (o *onTerminal) enter(text string) {
	o.t.Helper()
	if _, err := io.WriteString(o.tty, text); err != nil {
		o.t.Fatal(err)
	}
}
