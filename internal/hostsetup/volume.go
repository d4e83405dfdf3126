package hostsetup

import (
	"context"
	"errors"
	"path/filepath"
)

// volume is the XFS volume in a data folder (package filesystem). The agent mounts it at each start.
type volume struct{}

// read takes a folder whose file system has reflinks for one that has a volume: it needs none.
func (volume) read(_ context.Context, m *machine, target string) (state, error) {
	if m.exists(filepath.Join(target, "volume.xfs")) {
		return state{Present: true}, nil
	}
	return state{}, nil
}

func (volume) write(ctx context.Context, m *machine, target string, to state) error {
	if to.Present {
		err := m.volume(ctx, m.path(target), m.VolumeGiB)
		if err != nil && !m.exists(filepath.Join(target, "volume.xfs")) {
			_, undoErr := m.unvolume(ctx, m.path(target))
			err = errors.Join(err, undoErr)
		}
		return err
	}
	held, err := m.unvolume(ctx, m.path(target))
	if held {
		return &leftError{"it holds images or sandboxes; to lose them: host-agent purge, then remove " + filepath.Join(target, "volume.xfs")}
	}
	return err
}

func (volume) words(s state) string { return presence(s) }

// hasReflinks looks at the folder, or at the one that it will be made in.
func (m *machine) hasReflinks(dir string) (bool, error) {
	return m.reflinks(existing(m.path(dir)))
}
