package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// TestDemand: as many wait as were asked for at once lately; when that was long ago, none.
func TestDemand(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	for name, c := range map[string]struct {
		seconds []int // after begin
		now     int
		want    int
	}{
		"one":                         {[]int{0}, 1, 1},
		"one long ago":                {[]int{0}, 15*60 + 1, 0},
		"far apart":                   {[]int{0, 60, 120}, 121, 1},
		"at once":                     {[]int{0, 1, 9, 60}, 61, 3},
		"a burst that slides":         {[]int{0, 8, 16, 17, 18}, 20, 4},
		"a greater one is remembered": {[]int{0, 0, 0, 600}, 700, 3},
		"and forgotten":               {[]int{0, 0, 0, 600}, 1000, 1},
		"as much as is remembered":    {make([]int, 3*maxAsked), 1, maxAsked},
	} {
		var d demand
		for _, s := range c.seconds {
			d = d.at(begin.Add(time.Duration(s) * time.Second))
		}
		if got := d.want(begin.Add(time.Duration(c.now) * time.Second)); got != c.want {
			t.Errorf("%s: %d are wanted, not %d", name, got, c.want)
		}
	}
}

// TestShare: nobody has a second one before all have one, and nothing goes beyond the budget.
func TestShare(t *testing.T) {
	old, fresh := time.Unix(1, 0), time.Unix(2, 0)
	small, large := shape{"small", models.Size{}}, shape{"large", models.Size{}}
	for name, c := range map[string]struct {
		all    []wanted
		budget int64
		want   map[shape]int
	}{
		"nothing":                   {nil, 100, map[shape]int{}},
		"no budget":                 {[]wanted{{small, 1, 10, old}}, 0, map[shape]int{}},
		"all that is wanted":        {[]wanted{{small, 2, 10, old}, {large, 1, 50, fresh}}, 100, map[shape]int{small: 2, large: 1}},
		"one each first":            {[]wanted{{small, 9, 10, fresh}, {large, 2, 40, old}}, 100, map[shape]int{small: 2, large: 2}},
		"the last that came first":  {[]wanted{{small, 1, 60, old}, {large, 1, 60, fresh}}, 100, map[shape]int{large: 1}},
		"what does not fit is left": {[]wanted{{large, 1, 101, fresh}, {small, 3, 40, old}}, 100, map[shape]int{small: 2}},
	} {
		if diff := cmp.Diff(c.want, share(c.all, c.budget), cmp.AllowUnexported(shape{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestRoom: VMs of the pool are made where there is much room, and are in the way where a sandbox has none.
func TestRoom(t *testing.T) {
	for name, c := range map[string]struct {
		room         room
		spare, short bool
	}{
		"an empty host":           {room{1000, 900, 0, 0}, true, false},
		"one of the pool":         {room{1000, 800, 100, 100}, true, false},
		"promised":                {room{1000, 800, 850, 100}, false, false},
		"promised more":           {room{1000, 800, 950, 100}, false, true},
		"promised without a pool": {room{1000, 800, 1950, 0}, false, false},
		"in use":                  {room{1000, 399, 100, 100}, false, false},
		"used up":                 {room{1000, 99, 100, 100}, false, true},
		"unknown":                 {room{0, 0, 100, 100}, false, true},
	} {
		if spare, short := c.room.spare(100), c.room.short(100); spare != c.spare || short != c.short {
			t.Errorf("%s: spare %v, short %v", name, spare, short)
		}
	}
}

// TestPoolIsWeeded: what is more than its share goes, and what is wanted most of what lacks comes first.
func TestPoolIsWeeded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := newPool()
	one, other := shape{"one", models.Size{}}, shape{"other", models.Size{}}
	p.ask(one, now)
	p.ask(other, now.Add(time.Second))
	if of, found := p.lacking(map[shape]int{one: 1, other: 1}, now); !found || of != other {
		t.Errorf("%v lacks one, %v", of, found)
	}
	if !p.putOff(other, now) || p.putOff(other, now) {
		t.Error("a failure is not told once")
	}
	if of, found := p.lacking(map[shape]int{one: 1, other: 1}, now); !found || of != one {
		t.Errorf("after a failure %v lacks one, %v", of, found)
	}
	if of, found := p.lacking(map[shape]int{one: 0}, now); found {
		t.Errorf("%v lacks one", of)
	}
	dead := newSandbox(record{})
	p.put(one, dead)
	if out := p.weed(map[shape]int{one: 1}); !slices.Equal(out, []*sandbox{dead}) || len(p.waiting()) != 0 {
		t.Errorf("taken out: %v, there is still %v", out, p.waiting())
	}
	if p.close(); p.put(one, dead) {
		t.Error("a closed pool takes one")
	}
}

// TestPoolOrder: a create gets the VM that came last, and what gives way is the one that has waited for longest.
func TestPoolOrder(t *testing.T) {
	p, of := newPool(), shape{"one", models.Size{}}
	var came []*sandbox
	for range 4 {
		came = append(came, newSandbox(record{}))
		p.put(of, came[len(came)-1])
	}
	if got := []*sandbox{p.take(of), p.pop(), p.take(of), p.pop()}; !slices.Equal(got, []*sandbox{came[3], came[0], came[2], came[1]}) || p.take(of) != nil {
		t.Errorf("of %v they came as %v", came, got)
	}
}
