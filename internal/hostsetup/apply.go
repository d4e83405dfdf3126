package hostsetup

import (
	"context"
	"errors"
	"slices"
)

// Apply makes every change that is not made yet, and tells report of each item as soon as it is done with. What cannot be
// changed here is said in the result and stops nothing. An error is about the record, without which nothing is changed.
func (s *Setup) Apply(ctx context.Context, report func(Result)) (err error) {
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
	for _, i := range s.items {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		result, differing := s.look(ctx, i, record)
		for _, c := range differing {
			step, err := s.make(ctx, i.name, c, record)
			if err != nil {
				return err
			}
			result.Steps = append(result.Steps, step)
		}
		report(result)
	}
	if len(record.Entries) == 0 { // nothing was to be done, or nothing could be
		return record.remove(s.machine)
	}
	return record.write(s.machine)
}

// make records a change, then makes it. The error is the record's.
func (s *Setup) make(ctx context.Context, item string, c change, record *record) (Step, error) {
	step := c.step()
	e := record.begin(item, c)
	if err := record.write(s.machine); err != nil {
		return step, err
	}
	step.Err = c.write(ctx, s.machine, c.want)
	after, err := c.read(ctx, s.machine)
	e.After, e.Done = after, true
	if step.Err = errors.Join(step.Err, err); step.Err != nil && after == e.Before {
		record.forget(*e)
	}
	return step, record.write(s.machine)
}

// forget drops the entry of a change that was not made.
func (r *record) forget(made entry) {
	r.Entries = slices.DeleteFunc(r.Entries, func(e entry) bool { return e.Kind == made.Kind && e.Target == made.Target })
}
