package process

import (
	"cmp"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
)

// maxProcesses is how many processes may run at once, and maxLeftovers how many pipes of daemons are
// kept open that outlived theirs. They bound envd's memory and descriptors; what the processes themselves
// start is not counted.
const maxProcesses, maxLeftovers = 4096, 1024

// Service starts processes and finds them again. Its methods may be called at the same time.
type Service struct {
	reaper *reap.Reaper
	tasks  sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	running   map[int]*Process // by pid; holds only what has not been waited for
	starting  int
	leftovers map[*os.File]struct{}
}

// New returns a service whose processes are started and waited for by reaper.
func New(reaper *reap.Reaper) *Service {
	return &Service{reaper: reaper, running: map[int]*Process{}, leftovers: map[*os.File]struct{}{}}
}

// Start starts a process and returns it with the first reader of its output already
// attached; the caller closes the reader. Errors for the caller are of type *Error.
func (s *Service) Start(spec *Spec) (*Process, *Reader, error) {
	if err := checkUser(spec.User); err != nil {
		return nil, nil, err
	}
	command, err := spec.prepare()
	if err != nil {
		return nil, nil, err
	}
	if err := s.reserve(); err != nil {
		return nil, nil, err
	}
	p, err := s.spawn(command)
	if err != nil {
		s.release(nil)
		return nil, nil, err
	}
	reader := p.Attach()
	s.release(p)
	return p, reader, nil
}

// reserve takes a place for a process that is about to start.
func (s *Service) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errShutdown
	}
	if len(s.running)+s.starting >= maxProcesses {
		return errorf(Exhausted, "%d processes are running, and no more are allowed", maxProcesses)
	}
	s.starting++
	return nil
}

// release gives the place back, to p if that was started.
func (s *Service) release(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting--
	if p == nil {
		return
	}
	s.running[p.PID()] = p
	if p.spec.Timeout > 0 {
		p.timer = time.AfterFunc(p.spec.Timeout, p.expire)
	}
	s.tasks.Go(func() { p.watch(func() { s.forget(p) }, s.keep) })
	if s.closed {
		_ = p.Kill()
	}
}

func (s *Service) forget(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[p.PID()] == p { // the pid may have been given out again
		delete(s.running, p.PID())
	}
}

// spawn starts the first of command's paths that can be.
func (s *Service) spawn(command *command) (*Process, error) {
	pipes, err := openPipes(command.spec.Stdin)
	if err != nil {
		return nil, command.startError(err)
	}
	defer pipes.closeChildEnds()
	var child *reap.Child
	for _, path := range command.paths {
		cmd := command.build(path)
		pipes.connect(cmd)
		if child, err = s.reaper.Start(cmd); err == nil {
			return &Process{
				spec: command.spec, child: child, in: newInput(pipes.stdin), out: newOutput(bufferSize),
				pipes: [2]*os.File{pipes.stdout, pipes.stderr}, done: make(chan struct{}),
			}, nil
		}
	}
	pipes.closeOwnEnds()
	return nil, command.startError(err)
}

// keep reads on what a daemon still writes into a dead process's pipe.
func (s *Service) keep(p *pump) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.ended {
		return
	}
	if s.closed || len(s.leftovers) >= maxLeftovers {
		_ = p.pipe.Close()
		return
	}
	s.leftovers[p.pipe] = struct{}{}
	_ = p.pipe.SetReadDeadline(time.Time{})
	s.tasks.Go(func() {
		p.discard()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.leftovers, p.pipe)
		_ = p.pipe.Close()
	})
}

// List returns what runs, ascending by pid.
func (s *Service) List() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Process, 0, len(s.running))
	for _, p := range s.running {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *Process) int { return cmp.Compare(a.PID(), b.PID()) })
	return list
}

// ByPID returns the running process with that id, or a NotFound error.
func (s *Service) ByPID(pid int) (*Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.running[pid]; p != nil {
		return p, nil
	}
	return nil, errorf(NotFound, "process with pid %d not found", pid)
}

// ByTag returns the running process with that tag and the lowest pid, or a NotFound error.
func (s *Service) ByTag(tag string) (*Process, error) {
	for _, p := range s.List() {
		if tag != "" && p.spec.Tag == tag {
			return p, nil
		}
	}
	return nil, errorf(NotFound, "process with tag %q not found", tag)
}

// Close kills what runs and waits until it has ended. Readers must be closed by then, or
// go on reading.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	for _, p := range s.running {
		_ = p.Kill()
	}
	for pipe := range s.leftovers {
		_ = pipe.SetReadDeadline(time.Unix(1, 0))
	}
	s.mu.Unlock()
	s.tasks.Wait()
}
