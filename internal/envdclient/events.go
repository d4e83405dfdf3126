package envdclient

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"syscall"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"
)

// maxSignal is SIGRTMAX of signal(7).
const maxSignal = 64

func (e *Exec) next() (Event, error) {
	if e.exited != nil {
		return nil, io.EOF
	}
	for {
		event, err := e.receive()
		if err != nil {
			return nil, err
		}
		if ended := contextError(e.caller); ended != nil && e.exited == nil {
			continue // it is being killed; only its end matters now
		} else if ended != nil {
			return nil, ended
		}
		if event != nil {
			return event, nil
		}
	}
}

// receive reads one message; a keepalive gives no event.
func (e *Exec) receive() (Event, error) {
	e.watch.arm()
	defer e.watch.rest()
	if !e.stream.Receive() {
		return e.cut(e.stream.Err())
	}
	switch event := e.stream.Msg().GetEvent().GetEvent().(type) {
	case *pb.ProcessEvent_Data:
		return output(event.Data), nil
	case *pb.ProcessEvent_End:
		return e.end(event.End)
	case *pb.ProcessEvent_Keepalive:
		return nil, nil
	}
	return nil, e.fail(errors.New("an event that says nothing"))
}

func output(data *pb.ProcessEvent_DataEvent) Event {
	switch out := data.GetOutput().(type) {
	case *pb.ProcessEvent_DataEvent_Stdout:
		return Stdout(out.Stdout)
	case *pb.ProcessEvent_DataEvent_Stderr:
		return Stderr(out.Stderr)
	case *pb.ProcessEvent_DataEvent_Pty:
		return PTY(out.Pty)
	}
	return nil
}

// end reads what follows the end event: the trailers, which name the signal.
func (e *Exec) end(end *pb.ProcessEvent_EndEvent) (Event, error) {
	if e.stream.Receive() {
		return nil, e.fail(errors.New("an event after the last one"))
	}
	if err := e.stream.Err(); err != nil {
		return e.cut(err)
	}
	exited := exitOf(end, e.stream.ResponseTrailer())
	e.exited = &exited
	return exited, nil
}

// exitOf reads an end event. A guest that does not say which signal ended a process that did not
// exit, or says nonsense, has killed it.
func exitOf(end *pb.ProcessEvent_EndEvent, trailer http.Header) Exited {
	e := Exited{Code: int(end.GetExitCode()), TimedOut: end.GetTimedOut(), OOMKilled: end.GetOomKilled()}
	if end.GetExited() {
		return e
	}
	e.Code, e.Signal = -1, int(end.GetSignal())
	if e.Signal < 1 || e.Signal > maxSignal {
		e.Signal = signalOf(trailer)
	}
	return e
}

// cut explains a stream that ended without an end event.
func (e *Exec) cut(err error) (Event, error) {
	if exited, known := timedOut(err); known {
		e.exited = &exited
		return exited, nil
	}
	return nil, e.fail(streamError(err))
}

// timedOut reads the end of a process from a stream that ended without an end event: for a timeout that is how it is.
func timedOut(err error) (Exited, bool) {
	var remote *connect.Error
	if errors.As(err, &remote) && connect.IsWireError(err) && remote.Code() == connect.CodeDeadlineExceeded {
		return Exited{Code: -1, Signal: signalOf(remote.Meta()), TimedOut: true}, true
	}
	return Exited{}, false
}

// fail explains what went wrong; the caller's own end goes before everything else.
func (e *Exec) fail(err error) error {
	if ended := contextError(e.caller); ended != nil {
		return ended
	}
	failure := rpcError(e.ctx, err)
	if failure.Code == models.Unavailable && contextError(e.ctx) == nil {
		return models.Errorf(models.Unavailable, "the sandbox's guest went away while the process ran").WithCause(err)
	}
	return failure
}

// signalOf reads the signal of a process that one ended. A guest that names none, or
// nonsense, has killed it.
func signalOf(trailer http.Header) int {
	sig, err := strconv.Atoi(trailer.Get(headerExitSignal))
	if err != nil || sig < 1 || sig > maxSignal {
		return int(syscall.SIGKILL)
	}
	return sig
}
