package filesystem

import "golang.org/x/sys/unix"

// The magic numbers of statfs(2) that x/sys does not have.
const cifsSuperMagic, smb2SuperMagic = 0xff534d42, 0xfe534d42

// onNetwork reports whether path is on a file system that somebody else may change, of which
// inotify does not tell.
func onNetwork(path string) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return false, err
	}
	switch fs.Type {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, cifsSuperMagic, smb2SuperMagic, unix.FUSE_SUPER_MAGIC,
		unix.V9FS_MAGIC, unix.CODA_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.CEPH_SUPER_MAGIC:
		return true, nil
	}
	return false, nil
}
