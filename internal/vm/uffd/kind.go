package uffd

import (
	"errors"
	"fmt"
	"os"
)

// descriptorName is what /proc calls a descriptor of this kind: fs/userfaultfd.c of Linux.
const descriptorName = "anon_inode:[userfaultfd]"

// Check holds that a descriptor that somebody has sent is a userfaultfd.
func Check(fd int) error {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err == nil && name != descriptorName {
		err = errors.New(name + " is no userfaultfd")
	}
	return err
}
