package agent

import (
	"cmp"
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/vm"
)

// transition brings a sandbox from one state in which it can stay to another.
type transition struct {
	from, to State
	do       func(context.Context, *sandbox) error
	limit    time.Duration // where its caller set no deadline; 0: changeLimit
}

func (a *Agent) change(ctx context.Context, sb id.Sandbox, t transition) (Sandbox, error) {
	s, err := a.find(sb)
	if err != nil {
		return Sandbox{}, err
	}
	if err := a.begin(); err != nil {
		return Sandbox{}, err
	}
	defer a.tasks.Done()
	defer a.golden.hurry()()
	if err := s.acquire(ctx); err != nil {
		return Sandbox{}, err
	}
	defer s.release()
	switch v := s.view(); {
	case s.ctx.Err() != nil:
		return Sandbox{}, models.Errorf(models.Conflict, "sandbox %s is being destroyed, or its host agent is stopping", sb)
	case v.State == t.to:
		return v, nil
	case v.State != t.from:
		return Sandbox{}, v.isNot(t.from)
	}
	ctx, cancel := outlive(ctx, cmp.Or(t.limit, changeLimit))
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	err = t.do(ctx, s)
	return s.view(), err
}

// explainChange says why a pause or a resume failed. as is what is true of the sandbox afterwards.
func (a *Agent) explainChange(s *sandbox, err error, what, as string) error {
	var coded *models.Error
	var mismatch *vm.Mismatch
	var lost *vm.MemoryLost
	failed := func(code models.Code, why string) error {
		return models.Errorf(code, "the sandbox could not be %s: %s", what, why).WithCause(err).WithHint("%s", as)
	}
	switch {
	case s.ctx.Err() != nil:
		return models.Errorf(models.Conflict, "sandbox %s was destroyed, or its host agent stopped, while it was being %s", s.id, what).WithCause(err)
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return failed(models.Exhausted, "the host's disk is full")
	case errors.As(err, &mismatch):
		return failed(models.Precondition, mismatch.Error())
	case errors.As(err, &lost):
		return failed(models.Unavailable, lost.Reason)
	case errors.Is(err, vm.ErrGone), errors.Is(err, errDied):
		return failed(models.Unavailable, "its VM ended")
	case errors.Is(err, context.DeadlineExceeded):
		return failed(models.Deadline, "the time allowed ran out")
	case errors.As(err, &coded):
		if coded.Hint != "" {
			as = coded.Hint + "; " + as
		}
		return models.Errorf(coded.Code, "%s", coded.Message).WithCause(err).WithHint("%s", as)
	default:
		return failed(models.Internal, "its host could not do it")
	}
}
