package hostsetup

import (
	"context"
	"errors"
	"slices"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// leftError is why Undo leaves something as it is, for good.
type leftError struct{ reason string }

func (e *leftError) Error() string { return e.reason }

// Undo takes back what every Apply did, the last first, and tells report of each change. What somebody else has changed since
// is left alone. A change that cannot be taken back now (its Step has Err) stays in the record, for Undo to be
// called again, and makes it a Precondition error; the others are taken back all the same.
func (s *Setup) Undo(ctx context.Context, report func(item string, step Step)) (err error) {
	made, unlock, err := lockRecord(s.machine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	record, err := readRecord(s.machine)
	if err != nil {
		return err
	}
	record.MadeFolder = record.MadeFolder || made
	failed := 0
	for _, e := range slices.Backward(slices.Clone(record.Entries)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		step := s.takeBack(ctx, e)
		report(e.Item, step)
		if step.Err != nil {
			failed++
			continue
		}
		record.forget(e)
		if err := record.write(s.machine); err != nil {
			return err
		}
	}
	if failed > 0 {
		return models.Errorf(models.Precondition, "%d changes could not be taken back", failed).
			WithHint("see to what is said of them, and undo again")
	}
	return record.remove(s.machine)
}

func (s *Setup) takeBack(ctx context.Context, e entry) Step {
	c := e.change()
	var err error
	if c.now, err = c.read(ctx, s.machine); err != nil {
		return Step{What: c.name(), Err: err}
	}
	step := c.step()
	switch {
	case c.now == e.Before:
		step.Left = "it is so already"
	case e.Done && c.now != e.After:
		step.Left = "somebody else has changed it since"
	default:
		step.Err = c.write(ctx, s.machine, e.Before)
	}
	var left *leftError
	if errors.As(step.Err, &left) {
		step.Left, step.Err = left.reason, nil
	}
	return step
}
