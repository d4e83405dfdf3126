// Package user reads the guest's accounts from /etc/passwd and /etc/group.
//
// The files are parsed here because the C library is not linked (envd is static) and because a
// guest may change them at any moment: each lookup reads them anew. A file of a hostile
// guest costs bounded memory: what lies beyond maxFile is not seen.
package user

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// maxFile is how much of a file is read; Debian's own have 1 KiB.
const maxFile = 4 << 20

// maxGroups is the kernel's limit of supplementary groups, NGROUPS_MAX of limits.h.
const maxGroups = 65536

// ErrUnknown says that no account has the name.
var ErrUnknown = errors.New("unknown user")

// User is an account, as passwd(5) and group(5) describe it.
type User struct {
	Name   string
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary ones; ascending, without GID
	Home   string
	Shell  string
}

// Database names the files that hold the accounts.
type Database struct {
	Passwd string
	Group  string
}

// System is the guest's own database.
var System = Database{Passwd: "/etc/passwd", Group: "/etc/group"}

// Lookup returns the account called name, or an error that wraps ErrUnknown.
func (d Database) Lookup(name string) (*User, error) {
	found, err := d.first(func(u *User) bool { return u.Name == name })
	if err != nil {
		return nil, fmt.Errorf("look up user %q: %w", name, err)
	}
	return found, nil
}

// LookupUID returns the first account with that number, or an error that wraps ErrUnknown.
func (d Database) LookupUID(uid uint32) (*User, error) {
	found, err := d.first(func(u *User) bool { return u.UID == uid })
	if err != nil {
		return nil, fmt.Errorf("look up user %d: %w", uid, err)
	}
	return found, nil
}

func (d Database) first(match func(*User) bool) (*User, error) {
	var found *User
	err := eachLine(d.Passwd, func(fields []string) bool {
		u := parseUser(fields)
		if u == nil || !match(u) {
			return true
		}
		found = u
		return false
	})
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, ErrUnknown
	}
	found.Groups, err = d.groupsOf(found)
	return found, err
}

// parseUser reads name:password:uid:gid:comment:home:shell, or returns nil.
func parseUser(fields []string) *User {
	if len(fields) != 7 || fields[0] == "" {
		return nil
	}
	uid, uidErr := number(fields[2])
	gid, gidErr := number(fields[3])
	if uidErr != nil || gidErr != nil {
		return nil
	}
	u := &User{Name: fields[0], UID: uid, GID: gid, Home: fields[5], Shell: fields[6]}
	if u.Home == "" {
		u.Home = "/"
	}
	if u.Shell == "" {
		u.Shell = "/bin/sh" // passwd(5)
	}
	return u
}

// groupsOf reads name:password:gid:member,member of every group. A missing file is none.
func (d Database) groupsOf(u *User) ([]uint32, error) {
	var groups []uint32
	err := eachLine(d.Group, func(fields []string) bool {
		if len(fields) == 4 && slices.Contains(strings.Split(fields[3], ","), u.Name) {
			if gid, err := number(fields[2]); err == nil && gid != u.GID {
				groups = append(groups, gid)
			}
		}
		return len(groups) < maxGroups
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	slices.Sort(groups)
	return slices.Compact(groups), nil
}

// number parses an id. 2^32-1 is no id: to the kernel it means "leave as it is" (setuid(2)).
func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

// eachLine calls f with the fields of each line until it returns false.
func eachLine(path string, f func(fields []string) bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(io.LimitReader(file, maxFile))
	lines.Buffer(make([]byte, 0, 4096), maxFile)
	for lines.Scan() {
		if !f(strings.Split(lines.Text(), ":")) {
			return nil
		}
	}
	return lines.Err()
}
