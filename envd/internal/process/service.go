package process

import (
	"cmp"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wrenn-sandbox/wrenn/envd/internal/reap"
)

// maxProcesses is how many processes may run at once, and maxLeftovers how many pipes of daemons are
// kept open that outlived theirs. They bound envd's memory and descriptors; what the processes themselves
// start is not counted.
const maxProcesses, maxLeftovers = 4096, 1024

// keepEnded is how long a process that has ended can still be found, and maxEnded how many.
const keepEnded, maxEnded = 5 * time.Minute, 64

// Service starts processes and finds them again. Its methods may be called at the same time.
type Service struct {
	reaper *reap.Reaper
	tasks  sync.WaitGroup
	output atomic.Int64 // what the processes' rings hold

	mu        sync.Mutex
	closed    bool
	running   map[int]*Process // by pid; holds only what has not been waited for
	ended     []*Process       // the latest one last
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
	reader := p.out.own()
	s.release(p)
	return p, reader, nil
}

// Tidy is called when the end of a process has been told.
func (s *Service) Tidy() { s.reaper.Tidy() }

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

// forget moves a process to those that have ended.
func (s *Service) forget(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[p.PID()] == p { // the pid may have been given out again
		delete(s.running, p.PID())
	}
	if s.ended = append(s.ended, p); len(s.ended) > maxEnded {
		s.ended[0].out.release()
		s.ended = slices.Delete(s.ended, 0, 1)
	}
	for i := 0; i < len(s.ended) && s.output.Load() > endedRoom; i++ {
		s.ended[i].out.yield()
	}
	time.AfterFunc(keepEnded, func() { s.evict(p) })
}

// Forget makes sure that nothing that has ended is found any more.
func (s *Service) Forget() {
	for _, p := range s.Ended() {
		s.evict(p)
	}
}

// evict makes sure that an ended process is not found any more.
func (s *Service) evict(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = slices.DeleteFunc(s.ended, func(other *Process) bool { return other == p })
	p.out.release()
}

// spawn starts the first of command's paths that can be.
func (s *Service) spawn(command *command) (*Process, error) {
	pipes, err := openStdio(command.spec)
	if err != nil {
		return nil, command.startError(err)
	}
	defer pipes.closeChildEnds()
	var child *reap.Child
	for _, path := range command.paths {
		cmd := command.build(path)
		pipes.connect(cmd)
		if child, err = s.reaper.Start(cmd); err == nil {
			return s.newProcess(command.spec, child, pipes), nil
		}
	}
	pipes.closeOwnEnds()
	return nil, command.startError(err)
}

func (s *Service) newProcess(spec *Spec, child *reap.Child, pipes *stdio) *Process {
	p := &Process{
		spec: spec, child: child, in: newInput(pipes), out: newOutput(ringSize, &s.output),
		since: time.Now(), done: make(chan struct{}),
	}
	if pipes.terminal != nil {
		p.pumps = []*pump{{stream: Terminal, pipe: pipes.terminal, out: p.out}}
		return p
	}
	p.pumps = []*pump{{stream: Stdout, pipe: pipes.stdout, out: p.out}, {stream: Stderr, pipe: pipes.stderr, out: p.out}}
	return p
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

// Ended returns what has ended a while ago at most, the latest one first.
func (s *Service) Ended() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Clone(s.ended)
	slices.Reverse(list)
	return list
}

// ByPID returns the running process with that id, or else with ended the latest one that had it, or
// a NotFound error.
func (s *Service) ByPID(pid int, ended bool) (*Process, error) {
	s.mu.Lock()
	p := s.running[pid]
	s.mu.Unlock()
	if p == nil && ended {
		p = first(s.Ended(), func(p *Process) bool { return p.PID() == pid })
	}
	if p == nil {
		return nil, errorf(NotFound, "process with pid %d not found", pid)
	}
	return p, nil
}

// ByTag returns the running process with that tag and the lowest pid, or else with ended the latest one that had it,
// or a NotFound error.
func (s *Service) ByTag(tag string, ended bool) (*Process, error) {
	list := s.List()
	if ended {
		list = append(list, s.Ended()...)
	}
	p := first(list, func(p *Process) bool { return tag != "" && p.spec.Tag == tag })
	if p == nil {
		return nil, errorf(NotFound, "process with tag %q not found", tag)
	}
	return p, nil
}

func first(list []*Process, match func(*Process) bool) *Process {
	if i := slices.IndexFunc(list, match); i >= 0 {
		return list[i]
	}
	return nil
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
