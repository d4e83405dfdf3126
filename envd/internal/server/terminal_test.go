package server_test

import (
	"bytes"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

func onTerminal(msg *pb.StartRequest, cols, rows uint32) *pb.StartRequest {
	msg.Pty = &pb.PTY{Size: &pb.PTY_Size{Cols: cols, Rows: rows}}
	msg.Process.Envs = map[string]string{"TERM": "xterm", "PS1": "> "}
	return msg
}

func (e *envd) typeIn(pid uint32, text string) error {
	input := &pb.ProcessInput{Input: &pb.ProcessInput_Pty{Pty: []byte(text)}}
	_, err := e.rpc.SendInput(e.Context(), connect.NewRequest(&pb.SendInputRequest{Process: byPID(pid), Input: input}))
	return err
}

// readUntil reads a terminal's output until text is in it.
func readUntil(t *testing.T, next func() (*pb.ProcessEvent, error), text string) string {
	t.Helper()
	var got bytes.Buffer
	for !strings.Contains(got.String(), text) {
		event, err := next()
		if err != nil || event == nil {
			t.Fatalf("%q is not in %q: %v", text, &got, err)
		}
		got.Write(event.GetData().GetPty())
	}
	return got.String()
}

func (r *running) next() (*pb.ProcessEvent, error) {
	if !r.stream.Receive() {
		return nil, r.stream.Err()
	}
	return r.stream.Msg().GetEvent(), nil
}

// A process on a terminal leads a session whose controlling terminal that is, with its size, and owns it.
func TestTerminal(t *testing.T) {
	e := startDebug(t)
	res := e.run(onTerminal(shell(`tty; stty size; echo "$TERM"; [ -t 0 ] && [ -t 2 ] && : >/dev/tty && echo all >"$(tty)"; exit 3`), 101, 37))
	want := "37 101\r\nxterm\r\nall\r\n"
	if got := res.pty.String(); !strings.HasPrefix(got, "/dev/pts/") || !strings.HasSuffix(got, want) || res.end.GetExitCode() != 3 {
		t.Errorf("output %q, end %v", got, res.end)
	}
	if res.stdout.Len()+res.stderr.Len() > 0 {
		t.Errorf("stdout %q, stderr %q", &res.stdout, &res.stderr)
	}
}

func TestTerminalIsTypedInAndResized(t *testing.T) {
	e := startDebug(t)
	r := e.mustBegin(onTerminal(command("/bin/sh", "-i"), 80, 24))
	readUntil(t, r.next, "> ")
	update := &pb.UpdateRequest{Process: byPID(r.pid), Pty: &pb.PTY{Size: &pb.PTY_Size{Cols: 200, Rows: 50}}}
	if _, err := e.rpc.Update(t.Context(), connect.NewRequest(update)); err != nil {
		t.Fatal(err)
	}
	if err := e.typeIn(r.pid, "stty size; sh -c 'echo rea''dy; exec sleep 1000'\n"); err != nil {
		t.Fatal(err)
	}
	readUntil(t, r.next, "50 200\r\nready\r\n")
	if err := e.typeIn(r.pid, "\x03"); err != nil { // the terminal makes it SIGINT to the foreground group, which a shell survives
		t.Fatal(err)
	}
	readUntil(t, r.next, "> ")
	if _, err := e.rpc.CloseStdin(t.Context(), connect.NewRequest(&pb.CloseStdinRequest{Process: byPID(r.pid)})); err == nil {
		t.Error("a terminal's input was closed")
	}
	wantCode(t, e.send(t.Context(), r.pid, []byte("x")), connect.CodeFailedPrecondition, "pty")
	if err := e.typeIn(r.pid, "exit 7\n"); err != nil {
		t.Fatal(err)
	}
	if res := r.finish(); res.end.GetExitCode() != 7 || res.err != nil {
		t.Errorf("end %v, error %v", res.end, res.err)
	}
}

// A terminal outlives its client, and another one finds it as it was.
func TestTerminalIsAttachedToAgain(t *testing.T) {
	e := startDebug(t)
	before := measure(t)
	r := e.mustBegin(onTerminal(command("/bin/sh", "-i"), 80, 24))
	readUntil(t, r.next, "> ")
	r.cancel()
	if err := e.typeIn(r.pid, "X=kept; echo one\n"); err != nil {
		t.Fatal(err)
	}
	stream := e.attach(r.pid, 0)
	next := func() (*pb.ProcessEvent, error) {
		if !stream.Receive() {
			return nil, stream.Err()
		}
		return stream.Msg().GetEvent(), nil
	}
	if got := readUntil(t, next, "\r\none\r\n"); !strings.HasPrefix(got, "> ") {
		t.Errorf("the output from its beginning is %q", got)
	}
	if err := e.typeIn(r.pid, "echo $X; exit\n"); err != nil {
		t.Fatal(err)
	}
	readUntil(t, next, "kept\r\n")
	var last *pb.ProcessEvent
	for stream.Receive() {
		last = stream.Msg().GetEvent()
	}
	if stream.Err() != nil || last.GetEnd() == nil {
		t.Errorf("last event %v, error %v", last, stream.Err())
	}
	e.http.CloseIdleConnections()
	noMoreThan(t, before)
}

func TestTerminalErrors(t *testing.T) {
	e := startDebug(t)
	_, err := e.begin(onTerminal(command("true"), 70000, 24))
	wantCode(t, err, connect.CodeInvalidArgument, "70000")
	r := e.mustBegin(command("sleep", "1000"))
	update := &pb.UpdateRequest{Process: byPID(r.pid), Pty: &pb.PTY{Size: &pb.PTY_Size{Cols: 1, Rows: 1}}}
	_, err = e.rpc.Update(t.Context(), connect.NewRequest(update))
	wantCode(t, err, connect.CodeFailedPrecondition, "terminal")
	wantCode(t, e.typeIn(r.pid, "x"), connect.CodeFailedPrecondition, "stdin")
}
