package hostsim

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	pb "github.com/wrenn-sandbox/wrenn/proto/gen/hostagent/v1"
)

// program is what runs in a simulated guest.
type program struct {
	start  *pb.ExecStart
	args   []string
	stream grpc.BidiStreamingServer[pb.ExecRequest, pb.ExecResponse]
}

// Exec implements HostAgentService. A few programs exist, also as words for /bin/sh -c:
//
//	true, exit N, echo WORDS, env NAME, pwd, whoami
//	cat              copies stdin
//	bytes            prints the bytes 0xff 0xfe
//	flood N          prints N bytes to each of stdout and stderr
//	sleep            runs until it is killed
//	signal N         ends by a signal
//	vanish           the connection to it is lost
func (h *Host) Exec(stream grpc.BidiStreamingServer[pb.ExecRequest, pb.ExecResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s := first.GetStart()
	if h.State(s.GetSandboxId()) != pb.SandboxState_SANDBOX_STATE_RUNNING {
		return missing(s.GetSandboxId())
	}
	p := &program{start: s, args: append([]string{s.GetCommand()}, s.GetArgs()...), stream: stream}
	if s.GetCommand() == "/bin/sh" {
		p.args = strings.Fields(s.GetArgs()[1])
	}
	run, ok := programs[p.args[0]]
	if !ok {
		return models.Errorf(models.Invalid, "command not found: %s", p.args[0])
	}
	h.count(1)
	defer h.count(-1)
	if err := stream.Send(&pb.ExecResponse{Event: &pb.ExecResponse_Started{Started: &pb.ExecStarted{Pid: 42}}}); err != nil {
		return err
	}
	exit, err := run(p)
	if err != nil {
		return err
	}
	return stream.Send(&pb.ExecResponse{Event: &pb.ExecResponse_Exited{Exited: exit}})
}

func (h *Host) count(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running += n
}

var programs = map[string]func(*program) (*pb.ExecExited, error){
	"true": func(*program) (*pb.ExecExited, error) { return &pb.ExecExited{}, nil },
	"exit": func(p *program) (*pb.ExecExited, error) { return &pb.ExecExited{ExitCode: int32(p.number())}, nil },
	"signal": func(p *program) (*pb.ExecExited, error) {
		return &pb.ExecExited{Signal: int32(p.number())}, nil
	},
	"echo":   func(p *program) (*pb.ExecExited, error) { return p.print(strings.Join(p.args[1:], " ") + "\n") },
	"env":    func(p *program) (*pb.ExecExited, error) { return p.print(p.start.GetEnv()[p.args[1]]) },
	"pwd":    func(p *program) (*pb.ExecExited, error) { return p.print(p.start.GetCwd()) },
	"whoami": func(p *program) (*pb.ExecExited, error) { return p.print(p.start.GetUser()) },
	"bytes":  func(p *program) (*pb.ExecExited, error) { return p.print("\xff\xfe") },
	"cat":    (*program).cat,
	"flood":  (*program).flood,
	"sleep":  (*program).sleep,
	"vanish": func(*program) (*pb.ExecExited, error) { return nil, errors.New("vanished") },
}

func (p *program) number() int {
	n, err := strconv.Atoi(p.args[1])
	if err != nil {
		panic(fmt.Sprintf("hostsim: %v", err)) // the test's own mistake
	}
	return n
}

func (p *program) stdout(b []byte) error {
	return p.stream.Send(&pb.ExecResponse{Event: &pb.ExecResponse_Stdout{Stdout: b}})
}

func (p *program) print(s string) (*pb.ExecExited, error) {
	return &pb.ExecExited{}, p.stdout([]byte(s))
}

func (p *program) cat() (*pb.ExecExited, error) {
	for p.start.GetStdin() {
		m, err := p.stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := p.stdout(m.GetStdin()); err != nil {
			return nil, err
		}
	}
	return &pb.ExecExited{}, nil
}

func (p *program) flood() (*pb.ExecExited, error) {
	piece := []byte(strings.Repeat("x", 64<<10))
	for left := p.number(); left > 0; left -= len(piece) {
		piece = piece[:min(left, len(piece))]
		if err := p.stdout(piece); err != nil {
			return nil, err
		}
		if err := p.stream.Send(&pb.ExecResponse{Event: &pb.ExecResponse_Stderr{Stderr: piece}}); err != nil {
			return nil, err
		}
	}
	return &pb.ExecExited{}, nil
}

func (p *program) sleep() (*pb.ExecExited, error) {
	var timeout <-chan time.Time
	if d := p.start.GetTimeout().AsDuration(); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-timeout:
		return &pb.ExecExited{Signal: 9, TimedOut: true}, nil
	case <-p.stream.Context().Done():
		return nil, p.stream.Context().Err()
	}
}
