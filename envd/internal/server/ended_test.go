package server_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/envd/internal/server"
	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

func (e *envd) listAll() []*pb.ProcessInfo {
	e.Helper()
	req := connect.NewRequest(&pb.ListRequest{})
	req.Header().Set("Wrenn-Extensions", "1")
	resp, err := e.rpc.List(e.Context(), req)
	if err != nil {
		e.Fatal(err)
	}
	return resp.Msg.GetProcesses()
}

// What has ended is found by who asks for it, with its output and its end; others do not see it.
func TestEndedProcess(t *testing.T) {
	e := startDebug(t)
	msg := shell("echo text; exit 5")
	tag := "build"
	msg.Tag = &tag
	r := e.mustBegin(msg)
	r.finish()
	if list := e.list(); len(list) != 0 {
		t.Errorf("%v are listed without extensions", list)
	}
	list := e.listAll()
	if len(list) != 1 || list[0].GetPid() != r.pid || list[0].GetUser() != "tester" || list[0].GetOutputBytes() != 5 || list[0].GetEnd().GetExitCode() != 5 {
		t.Fatalf("%v are listed", list)
	}
	if started := list[0].GetStartedAt(); started > float64(time.Now().Unix()+1) || started < float64(time.Now().Add(-patience).Unix()) {
		t.Errorf("it started at %f", started)
	}
	stream := e.attach(r.pid, 2)
	if !stream.Receive() || string(stream.Msg().GetEvent().GetData().GetStdout()) != "xt\n" {
		t.Errorf("second event %v, error %v", stream.Msg(), stream.Err())
	}
	if !stream.Receive() || stream.Msg().GetEvent().GetEnd().GetExitCode() != 5 || stream.Receive() || stream.Err() != nil {
		t.Errorf("last event %v, error %v", stream.Msg(), stream.Err())
	}
	plain, err := e.rpc.Connect(t.Context(), connect.NewRequest(&pb.ConnectRequest{Process: byPID(r.pid)}))
	if err != nil || plain.Receive() {
		t.Fatalf("attached without extensions: %v, %v", plain.Msg(), err)
	}
	wantCode(t, plain.Err(), connect.CodeNotFound, "not found")
	e.toEnded(r.pid)
}

// TestForgetsWhatHasRun: a clone of a guest cannot ask what its template ran.
func TestForgetsWhatHasRun(t *testing.T) {
	e := start(t, server.Options{Debug: true, Sync: func() error { return nil }})
	e.init(`{"defaultUser":"tester"}`)
	r := e.mustBegin(shell("echo text"))
	r.finish()
	if list := e.listAll(); len(list) != 1 {
		t.Fatalf("%v are listed", list)
	}
	if status, text := e.request("POST", "/forget", "", nil); status != 204 {
		t.Fatalf("forget: %d %s", status, text)
	}
	if list := e.listAll(); len(list) != 0 {
		t.Errorf("%v are listed afterwards", list)
	}
}

// toEnded has what reaches running processes only tell our callers that it has ended, and others that there is no such process.
func (e *envd) toEnded(pid uint32) {
	e.Helper()
	signal := connect.NewRequest(&pb.SendSignalRequest{Process: byPID(pid), Signal: 15})
	input := connect.NewRequest(&pb.SendInputRequest{Process: byPID(pid), Input: &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: []byte("x")}}})
	for _, c := range []struct {
		extensions string
		code       connect.Code
		says       string
	}{{"", connect.CodeNotFound, "not found"}, {"1", connect.CodeFailedPrecondition, "has ended"}} {
		signal.Header().Set("Wrenn-Extensions", c.extensions)
		input.Header().Set("Wrenn-Extensions", c.extensions)
		_, err := e.rpc.SendSignal(e.Context(), signal)
		wantCode(e.T, err, c.code, c.says)
		_, err = e.rpc.SendInput(e.Context(), input)
		wantCode(e.T, err, c.code, c.says)
	}
}

func TestOffsetBeyondTheOutput(t *testing.T) {
	e := startDebug(t)
	r := e.mustBegin(shell("echo text"))
	r.finish()
	for offset, code := range map[int64]connect.Code{6: connect.CodeOutOfRange, -2: connect.CodeInvalidArgument} {
		req := connect.NewRequest(&pb.ConnectRequest{Process: byPID(r.pid), Offset: &offset})
		req.Header().Set("Wrenn-Extensions", "1")
		stream, err := e.rpc.Connect(t.Context(), req)
		if err != nil || stream.Receive() {
			t.Fatalf("offset %d: %v, %v", offset, stream.Msg(), err)
		}
		wantCode(t, stream.Err(), code, "offset")
	}
}

// Of what has ended, so many are kept, and of those the newest.
func TestEndedProcessesAreForgotten(t *testing.T) {
	e := startDebug(t)
	var last uint32
	for range 70 {
		r := e.mustBegin(command("true"))
		r.finish()
		last = r.pid
	}
	if list := e.listAll(); len(list) != 64 || list[0].GetPid() != last {
		t.Errorf("%d are listed, the first is %v", len(list), list[0])
	}
}

// What is to be done for the next program is done when the end of one was told, and not only a second later. A machine that is busy may take longer for a time or two.
func TestTidiesOnceTheEndIsTold(t *testing.T) {
	e := startDebug(t)
	if cgroups == "" {
		testlane.Missing(t, "a writable cgroup v2 mount")
	}
	var all []time.Duration
	for i := range 20 {
		group := filepath.Join(cgroups, filepath.Base(strings.TrimSpace(e.output(shell("cat /proc/self/cgroup")))))
		told := time.Now()
		eventually(t, func() error {
			if _, err := os.Stat(group); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s is still there (%v)", group, err)
			}
			return nil
		})
		if took := time.Since(told); i == 0 { // for which other tests' programs may have done it
			continue
		} else if took < 600*time.Millisecond {
			return
		} else {
			all = append(all, took)
		}
	}
	t.Errorf("it took %v", all)
}
