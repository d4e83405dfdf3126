package agent

import (
	"cmp"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/models"
	"github.com/wrenn-sandbox/wrenn/internal/snapshot"
)

// GoldenSnapshot is one that creates are made from.
type GoldenSnapshot struct {
	ID        string
	Template  string
	Digest    string // of the template
	Size      models.Size
	CreatedAt time.Time
	Bytes     int64     // that it takes of the disk
	Verified  time.Time // when it was last read as a whole and found to be as it was made; zero where that cannot be told
}

// GoldenSnapshots returns those that creates are made from at present, by template.
func (a *Agent) GoldenSnapshots() []GoldenSnapshot {
	have := a.golden.all()
	all := make([]GoldenSnapshot, 0, len(have))
	for _, one := range have {
		of := shapeOf(one.Snapshot)
		known, _, _ := one.Integrity() // the scrubber tells of one that is damaged
		all = append(all, GoldenSnapshot{
			ID: one.ID, Template: of.template, Digest: one.Template.Digest, Size: of.size, CreatedAt: one.CreatedAt, Bytes: a.bytesOf(one.Snapshot), Verified: known.VerifiedAt,
		})
	}
	slices.SortFunc(all, func(x, y GoldenSnapshot) int {
		return cmp.Or(cmp.Compare(x.Template, y.Template), x.CreatedAt.Compare(y.CreatedAt))
	})
	return all
}

// all returns those in place, the one that was asked for last first.
func (g *goldens) all() []*golden {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := slices.Collect(maps.Values(g.have))
	slices.SortFunc(all, func(x, y *golden) int { return y.asked.Compare(x.asked) })
	return all
}

// evict dooms those that were not asked for for longest, until what is there fits into the budget.
func (a *Agent) evict() {
	left := int64(a.cfg.GoldenMiB) << 20
	for _, one := range a.golden.all() {
		if left -= a.bytesOf(one.Snapshot); left < 0 && a.golden.doom(shapeOf(one.Snapshot), one) {
			a.log.Info("removing a golden snapshot for want of room", "snapshot", one.ID, "template", one.Template.Name, "budget_mib", a.cfg.GoldenMiB)
		}
	}
}

// blockSize is that of st_blocks: stat(2).
const blockSize = 512

// bytesOf is what a snapshot takes of the disk. Where there are reflinks, its rootfs has nearly all blocks in common with the template's.
func (a *Agent) bytesOf(s snapshot.Snapshot) (sum int64) {
	info, err := a.cfg.Images.Info()
	for _, name := range []string{snapshot.VMStateFile, snapshot.MemoryFile, snapshot.RootfsFile} {
		if name == snapshot.RootfsFile && err == nil && info.Reflinks {
			continue
		}
		if stat, err := os.Stat(filepath.Join(s.Dir, name)); err == nil {
			sum += stat.Sys().(*syscall.Stat_t).Blocks * blockSize
		}
	}
	return sum
}
