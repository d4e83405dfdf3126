package models

import (
	"errors"
	"fmt"
	"strings"
)

// Unlimited is a part of a pool that has no limit.
const Unlimited int64 = -1

// Room is an amount of what the sandboxes of an account take of its pool.
type Room struct {
	VCPUs, MemoryMiB, DiskMiB int64
	Sandboxes                 int64 // that run
}

// Pool is what an account may have at a time, and what it has. What is used can be more than the limit: when that was lowered, or a host has let a sandbox go on that nobody
// wanted to. Nothing more is taken of it then.
type Pool struct {
	Limit Room // Unlimited where there is none
	Used  Room
}

// ErrPoolFull is the cause of an error for want of room in a pool that could have had it: it may come.
var ErrPoolFull = errors.New("the pool is full")

// Awake is what n running sandboxes of a size take of a pool beside their disks: all that a resume takes.
func (s Size) Awake(n int) Room {
	return Room{VCPUs: int64(n) * int64(s.VCPUs), MemoryMiB: int64(n) * int64(s.MemoryMiB), Sandboxes: int64(n)}
}

// Whole is what n running sandboxes of a size take of a pool.
func (s Size) Whole(n int) Room {
	r := s.Awake(n)
	r.DiskMiB = int64(n) * int64(s.DiskMiB)
	return r
}

// Stored is what a snapshot of a sandbox of that size takes of a pool: its memory lies on a disk too.
func (s Size) Stored() Room { return Room{DiskMiB: int64(s.DiskMiB) + int64(s.MemoryMiB)} }

// Minus returns what is left of r without s.
func (r Room) Minus(s Room) Room {
	return Room{VCPUs: r.VCPUs - s.VCPUs, MemoryMiB: r.MemoryMiB - s.MemoryMiB, DiskMiB: r.DiskMiB - s.DiskMiB, Sandboxes: r.Sandboxes - s.Sandboxes}
}

// Take tells whether there is room for what is asked for. What is not asked for does not matter. It fails with Exhausted that says what is short, and with the cause ErrPoolFull if
// there can be room for it.
func (p Pool) Take(asked Room) error {
	var short []string
	fits := true
	for _, d := range []struct {
		name               string
		asked, limit, used int64
	}{
		{"vCPUs", asked.VCPUs, p.Limit.VCPUs, p.Used.VCPUs},
		{"MiB of memory", asked.MemoryMiB, p.Limit.MemoryMiB, p.Used.MemoryMiB},
		{"MiB of disk", asked.DiskMiB, p.Limit.DiskMiB, p.Used.DiskMiB},
		{"running sandboxes", asked.Sandboxes, p.Limit.Sandboxes, p.Used.Sandboxes},
	} {
		if d.asked == 0 || d.limit == Unlimited || d.asked+d.used <= d.limit {
			continue
		}
		short = append(short, fmt.Sprintf("%d %s asked for, %d of %d used", d.asked, d.name, d.used, d.limit))
		fits = fits && d.asked <= d.limit
	}
	if short == nil {
		return nil
	}
	err := Errorf(Exhausted, "the account's pool has no room for it: %s", strings.Join(short, "; "))
	if !fits {
		return err.WithHint("it is larger than the pool: ask for less")
	}
	return err.WithCause(ErrPoolFull).WithHint("pause or destroy sandboxes that are not needed, ask for less, or wait for room with wait_seconds")
}
