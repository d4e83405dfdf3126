package models

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPoolTake(t *testing.T) {
	none := Room{Unlimited, Unlimited, Unlimited, Unlimited}
	limited := func(set func(*Room)) Room {
		r := none
		set(&r)
		return r
	}
	size := Size{VCPUs: 2, MemoryMiB: 512, DiskMiB: 1024}
	for _, c := range []struct {
		name  string
		pool  Pool
		asked Room
		says  string // empty where there is room
		may   bool   // come to be room
	}{
		{"without limits", Pool{Limit: none, Used: Room{1 << 40, 1 << 40, 1 << 40, 1 << 40}}, size.Whole(16), "", false},
		{"just enough", Pool{Limit: size.Whole(2), Used: size.Whole(1)}, size.Whole(1), "", false},
		{"processors", Pool{Limit: limited(func(r *Room) { r.VCPUs = 8 }), Used: size.Whole(3)}, size.Whole(2), "4 vCPUs asked for, 6 of 8 used", true},
		{"memory", Pool{Limit: limited(func(r *Room) { r.MemoryMiB = 600 }), Used: size.Whole(1)}, size.Whole(1), "512 MiB of memory asked for, 512 of 600 used", true},
		{"disk", Pool{Limit: limited(func(r *Room) { r.DiskMiB = 1500 })}, size.Stored(), "1536 MiB of disk asked for, 0 of 1500 used", false},
		{"number", Pool{Limit: limited(func(r *Room) { r.Sandboxes = 1 }), Used: size.Whole(1)}, size.Awake(1), "1 running sandboxes asked for, 1 of 1 used", true},
		{"never", Pool{Limit: limited(func(r *Room) { r.Sandboxes = 0 })}, size.Awake(1), "1 running sandboxes asked for, 0 of 0 used", false},
		{"one never, one later", Pool{Limit: Room{8, 100, Unlimited, Unlimited}, Used: Room{VCPUs: 8}}, size.Whole(1), "; 512 MiB of memory", false},
		{"disk is overdrawn, and not asked for", Pool{Limit: limited(func(r *Room) { r.DiskMiB = 1 }), Used: size.Whole(1)}, size.Awake(1), "", false},
	} {
		err := c.pool.Take(c.asked)
		if c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if CodeOf(err) != Exhausted || !strings.Contains(err.Error(), c.says) || errors.Is(err, ErrPoolFull) != c.may {
			t.Errorf("%s: %v; may come: %v", c.name, err, errors.Is(err, ErrPoolFull))
		}
	}
}

// TestPoolNeverOversold: whatever is taken one after the other with Take's consent stays within every limit.
func TestPoolNeverOversold(t *testing.T) {
	amount := func(t *rapid.T, name string, most int64) Room {
		draw := func(part string) int64 { return rapid.Int64Range(0, most).Draw(t, name+part) }
		return Room{draw(" vcpus"), draw(" memory"), draw(" disk"), draw(" sandboxes")}
	}
	rapid.Check(t, func(t *rapid.T) {
		p := Pool{Limit: amount(t, "limit", 20)}
		for range rapid.IntRange(1, 20).Draw(t, "takes") {
			asked := amount(t, "asked", 8)
			if p.Take(asked) == nil {
				p.Used = p.Used.Minus(Room{}.Minus(asked))
			}
			if left := p.Limit.Minus(p.Used); min(left.VCPUs, left.MemoryMiB, left.DiskMiB, left.Sandboxes) < 0 {
				t.Fatalf("%+v are used of %+v", p.Used, p.Limit)
			}
		}
	})
}
