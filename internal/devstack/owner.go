package devstack

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// owner is the user the servers run as.
type owner struct {
	name       string
	uid, gid   int
	credential *syscall.Credential // nil: we are that user
}

// serverOwner is ourselves, unless we are root: Postgres refuses to run as root, and
// Redis has no need to. Then it is the user of Debian's package, else nobody.
func serverOwner() (owner, error) {
	if os.Geteuid() != 0 {
		return owner{name: "this user", uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil {
			return owner{name, uid, gid, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
		}
	}
	return owner{}, models.Errorf(models.Precondition, "there is neither a user postgres nor a user nobody to run the servers as").
		WithHint("adduser --system postgres")
}

// mkdir makes path a folder that only the owner can enter.
func (o owner) mkdir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	if err := os.Chown(path, o.uid, o.gid); err != nil {
		return err
	}
	return os.Chmod(path, 0o700)
}

// reaches checks that the owner can enter every folder on the way to path.
func (o owner) reaches(path string) error {
	if o.credential == nil {
		return nil
	}
	for p := path; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return fmt.Errorf("look at folder: %w", err)
		}
		if !o.enters(info) {
			return models.Errorf(models.Precondition, "user %s, as whom the database runs, cannot enter %s", o.name, p).
				WithHint("choose a data folder elsewhere, for example below /var/lib, or: chmod o+x %s", p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

func (o owner) enters(info os.FileInfo) bool {
	st := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case int(st.Uid) == o.uid:
		return mode&0o100 != 0
	case int(st.Gid) == o.gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}
