package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

func (e *envd) send(ctx context.Context, pid uint32, data []byte) error {
	input := &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: data}}
	_, err := e.rpc.SendInput(ctx, connect.NewRequest(&pb.SendInputRequest{Process: byPID(pid), Input: input}))
	return err
}

func (e *envd) closeStdin(pid uint32) error {
	_, err := e.rpc.CloseStdin(context.Background(), connect.NewRequest(&pb.CloseStdinRequest{Process: byPID(pid)}))
	return err
}

// Ten megabytes go in and come out while both directions are under way.
func TestEcho(t *testing.T) {
	e := startDebug(t)
	want := numbered(10 << 20)
	r := e.mustBegin(withInput(command("cat")))
	sent := make(chan error, 1)
	go func() {
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 200_000)
			if err := e.send(context.Background(), r.pid, rest[:n]); err != nil {
				sent <- err
				return
			}
			rest = rest[n:]
		}
		sent <- e.closeStdin(r.pid)
	}()
	res := r.finish()
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if res.end.GetExitCode() != 0 || !bytes.Equal(res.stdout.Bytes(), want) {
		t.Errorf("end %v, error %v, %d bytes came back, or others", res.end, res.err, res.stdout.Len())
	}
}

func TestStreamInput(t *testing.T) {
	e := startDebug(t)
	r := e.mustBegin(withInput(command("cat")))
	stream := e.rpc.StreamInput(t.Context())
	events := []*pb.StreamInputRequest{
		{Event: &pb.StreamInputRequest_Start{Start: &pb.StreamInputRequest_StartEvent{Process: byPID(r.pid)}}},
		inputData("one "),
		{Event: &pb.StreamInputRequest_Keepalive{Keepalive: &pb.StreamInputRequest_KeepAlive{}}},
		inputData("two"),
	}
	for _, event := range events {
		if err := stream.Send(event); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndReceive(); err != nil {
		t.Fatal(err)
	}
	if err := e.closeStdin(r.pid); err != nil {
		t.Error(err)
	}
	if res := r.finish(); res.stdout.String() != "one two" {
		t.Errorf("stdout %q, error %v", &res.stdout, res.err)
	}
}

func inputData(text string) *pb.StreamInputRequest {
	input := &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: []byte(text)}}
	return &pb.StreamInputRequest{Event: &pb.StreamInputRequest_Data{Data: &pb.StreamInputRequest_DataEvent{Input: input}}}
}

func TestStreamInputWithoutStart(t *testing.T) {
	stream := startDebug(t).rpc.StreamInput(t.Context())
	if err := stream.Send(inputData("x")); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	_, err := stream.CloseAndReceive()
	wantCode(t, err, connect.CodeInvalidArgument, "start event")
}

func TestNoInput(t *testing.T) {
	e := startDebug(t)
	if got := e.output(command("cat")); got != "" {
		t.Errorf("stdout %q", got)
	}
	r := e.mustBegin(command("sleep", "1000"))
	wantCode(t, e.send(t.Context(), r.pid, []byte("x")), connect.CodeFailedPrecondition, "closed")
	if err := e.signal(r.pid, 9); err != nil {
		t.Error(err)
	}
	r.finish()
}

func TestInputErrors(t *testing.T) {
	e := startDebug(t)
	r := e.mustBegin(withInput(command("sleep", "1000")))
	_, err := e.rpc.SendInput(t.Context(), connect.NewRequest(&pb.SendInputRequest{Process: byPID(r.pid)}))
	wantCode(t, err, connect.CodeInvalidArgument, "empty")
	pty := &pb.ProcessInput{Input: &pb.ProcessInput_Pty{Pty: []byte("x")}}
	_, err = e.rpc.SendInput(t.Context(), connect.NewRequest(&pb.SendInputRequest{Process: byPID(r.pid), Input: pty}))
	wantCode(t, err, connect.CodeFailedPrecondition, "terminal")
	wantCode(t, e.send(t.Context(), r.pid, make([]byte, 5<<20)), connect.CodeResourceExhausted, "")
	if err := errors.Join(e.closeStdin(r.pid), e.closeStdin(r.pid)); err != nil { // twice is fine
		t.Error(err)
	}
	wantCode(t, e.send(t.Context(), r.pid, []byte("x")), connect.CodeFailedPrecondition, "closed")
	if err := e.signal(r.pid, 9); err != nil {
		t.Error(err)
	}
	r.finish()
	wantCode(t, e.send(t.Context(), r.pid, []byte("x")), connect.CodeNotFound, "not found")
}

// Input to a process that does not read waits, until its caller gives up or the process ends; a
// caller that gives up leaves the input usable.
func TestInputThatNobodyReads(t *testing.T) {
	e := startDebug(t)
	trigger := filepath.Join(e.home, "trigger")
	r := e.mustBegin(withInput(shell("while [ ! -e " + trigger + " ]; do sleep 0.01; done; wc -c; sleep 1000")))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	wantCode(t, e.send(ctx, r.pid, make([]byte, 1<<20)), connect.CodeDeadlineExceeded, "")
	if err := e.uploadEmpty(trigger); err != nil {
		t.Fatal(err)
	}
	if err := e.send(t.Context(), r.pid, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := e.closeStdin(r.pid); err != nil {
		t.Fatal(err)
	}
	if !r.stream.Receive() { // wc has read it all; from now on nobody reads
		t.Fatal(r.stream.Err())
	}
	if err := e.signal(r.pid, 9); err != nil {
		t.Fatal(err)
	}
	r.finish()
}

// A blocked writer is released when the process ends.
func TestInputEndsWithTheProcess(t *testing.T) {
	e := startDebug(t)
	daemonFile := filepath.Join(e.home, "pid") // of one that keeps the input open
	r := e.mustBegin(withInput(shell("exec 3<&0; setsid sh -c 'echo $$ >" + daemonFile + "; exec sleep 1000' <&3 & exec sleep 1000")))
	daemon := readPID(t, daemonFile)
	sent := make(chan error, 1)
	go func() { sent <- e.send(context.Background(), r.pid, make([]byte, 1<<20)) }()
	eventually(t, func() error { return pipeHolds(int(r.pid), 64<<10) }) // a pipe's size, pipe(7)
	if err := e.signal(r.pid, 15); err != nil {
		t.Fatal(err)
	}
	wantCode(t, <-sent, connect.CodeFailedPrecondition, "closed after")
	r.finish()
	if err := killPID(daemon); err != nil {
		t.Error(err)
	}
	eventually(t, gone(daemon))
}

// pipeHolds checks how much waits in the pipe that is a process's standard input.
func pipeHolds(pid, want int) error {
	pipe, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/0", pid), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { _ = pipe.Close() }()
	n, err := unix.IoctlGetInt(int(pipe.Fd()), unix.TIOCINQ)
	if err == nil && n < want {
		err = fmt.Errorf("the pipe holds %d bytes", n)
	}
	return err
}
