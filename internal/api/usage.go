package api

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/usage"
)

const (
	defaultUsageTime = 30 * 24 * time.Hour
	maxUsageTime     = 366 * 24 * time.Hour
)

// What usage can be asked by.
const (
	byDay     = "day"
	bySandbox = "sandbox"
)

// amountView is the schema UsageAmount.
type amountView struct {
	VCPU   usage.Decimal `json:"vcpu_seconds"`
	Memory usage.Decimal `json:"memory_gib_seconds"`
	Stored storedView    `json:"stored_gib_hours"`
}

type storedView struct {
	Paused     usage.Decimal `json:"paused"`
	Hibernated usage.Decimal `json:"hibernated"`
	Snapshot   usage.Decimal `json:"snapshot"`
}

func viewOfAmount(a usage.Amount) amountView {
	return amountView{
		VCPU: a.VCPU.Per(usage.UnitSeconds), Memory: a.Memory.Per(usage.GiBSeconds),
		Stored: storedView{a.Paused.Per(usage.GiBHours), a.Hibernated.Per(usage.GiBHours), a.Snapshot.Per(usage.GiBHours)},
	}
}

// usageItemView is the schema UsageItem.
type usageItemView struct {
	Day     *string    `json:"day"`
	Sandbox *string    `json:"sandbox_id"`
	Used    amountView `json:"used"`
}

// usageAsked is what a request wants to know.
type usageAsked struct {
	from, to time.Time
	by       string // byDay, bySandbox, or "" for the total alone
	limit    int    // of sandboxes
	after    string // the last sandbox of the page before
}

func (s *Server) getUsage(w http.ResponseWriter, r *http.Request) error {
	now, err := s.Store.Now(r.Context())
	if err != nil {
		return err
	}
	asked, err := askedForUsage(r, now)
	if err != nil {
		return err
	}
	u, err := s.usageOf(r.Context(), by(r).Account, asked)
	if err != nil {
		return err
	}
	page := asked.page(u.parts)
	page["from"], page["to"], page["total"] = apiTime(asked.from), apiTime(asked.to), viewOfAmount(u.total)
	s.writeJSON(w, http.StatusOK, page)
	return nil
}

// page is all days, or the sandboxes of a page.
func (u usageAsked) page(parts map[string]*usage.Amount) map[string]any {
	names := slices.Sorted(maps.Keys(parts))
	most := len(names)
	if u.by == bySandbox {
		names = slices.DeleteFunc(names, func(name string) bool { return name <= u.after })
		most = u.limit
	}
	return pageOf(names, most, func(name string) usageItemView { return u.item(name, *parts[name]) }, func(last string) string { return last })
}

// used is what an account has used, in all and by the names of what it was asked by.
type used struct {
	total usage.Amount
	parts map[string]*usage.Amount
}

func (u *used) add(name string, a usage.Amount) {
	if a == (usage.Amount{}) {
		return
	}
	if u.parts[name] == nil {
		u.parts[name] = &usage.Amount{}
	}
	*u.parts[name] = u.parts[name].Plus(a)
}

func (s *Server) usageOf(ctx context.Context, account id.Account, asked usageAsked) (u used, err error) {
	err = s.Store.UsagePeriods(ctx, account, asked.from, asked.to, func() func(usage.Period) {
		u = used{parts: map[string]*usage.Amount{}}
		return func(p usage.Period) {
			a := p.In(asked.from, asked.to)
			u.total = u.total.Plus(a)
			switch asked.by {
			case byDay:
				p.ByDay(asked.from, asked.to, func(day time.Time, a usage.Amount) { u.add(day.Format(time.DateOnly), a) })
			case bySandbox:
				u.add(string(p.Sandbox), a)
			}
		}
	})
	return u, err
}

func (u usageAsked) item(name string, a usage.Amount) usageItemView {
	v := usageItemView{Used: viewOfAmount(a)}
	if u.by == byDay {
		v.Day = &name
	} else {
		v.Sandbox = &name
	}
	return v
}

func askedForUsage(r *http.Request, now time.Time) (asked usageAsked, err error) {
	q, err := query(r, []string{"from", "to", "by", "limit", "cursor"})
	if err != nil {
		return asked, err
	}
	if asked.from, asked.to, err = timesAsked(q, now); err != nil {
		return asked, err
	}
	asked.by = q.Get("by")
	if q.Has("by") && asked.by != byDay && asked.by != bySandbox {
		return asked, models.Errorf(models.Invalid, "by must be %s or %s", byDay, bySandbox)
	}
	if asked.by != bySandbox && (q.Has("limit") || q.Has("cursor")) {
		return asked, models.Errorf(models.Invalid, "limit and cursor are for what is asked for by sandbox")
	}
	if asked.limit, err = limitAsked(q); err != nil {
		return asked, err
	}
	if asked.after = q.Get("cursor"); q.Has("cursor") {
		if _, err := id.ParseSandbox(asked.after); err != nil {
			return asked, foreignCursor()
		}
	}
	return asked, nil
}

// timesAsked returns the time that a request is about, in whole microseconds as all times of usage are, and none of it in the future.
func timesAsked(q url.Values, now time.Time) (from, to time.Time, err error) {
	if from, err = timeAsked(q, "from"); err != nil {
		return from, to, err
	}
	if to, err = timeAsked(q, "to"); err != nil {
		return from, to, err
	}
	if !q.Has("to") || to.After(now) {
		to = now
	}
	if !q.Has("from") {
		from = to.Add(-defaultUsageTime)
	}
	from, to = from.Truncate(time.Microsecond), to.Truncate(time.Microsecond)
	switch {
	case !from.Before(to):
		return from, to, models.Errorf(models.Invalid, "from must be before to, and before now").WithHint("it is %s", now.UTC().Format(time.RFC3339))
	case to.Sub(from) > maxUsageTime:
		return from, to, models.Errorf(models.Invalid, "from must be at most 366 days before to").WithHint("ask for parts of the time: what they say adds up")
	}
	return from, to, nil
}
