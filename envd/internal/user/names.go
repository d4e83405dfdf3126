package user

import "strconv"

// Names are the names of all accounts and groups, as they were when they were read.
type Names struct {
	users, groups map[uint32]string
}

// Names reads them. What cannot be read has no names.
func (d Database) Names() *Names {
	return &Names{users: namesOf(d.Passwd, 7), groups: namesOf(d.Group, 4)}
}

// namesOf reads lines that begin with name:password:number. Of several names the first counts.
func namesOf(path string, fieldCount int) map[uint32]string {
	names := map[uint32]string{}
	_ = eachLine(path, func(fields []string) bool {
		if len(fields) != fieldCount || fields[0] == "" {
			return true
		}
		if id, err := number(fields[2]); err == nil && names[id] == "" {
			names[id] = fields[0]
		}
		return true
	})
	return names
}

// User returns an account's name, or its number.
func (n *Names) User(uid uint32) string { return nameOr(n.users, uid) }

// Group returns a group's name, or its number.
func (n *Names) Group(gid uint32) string { return nameOr(n.groups, gid) }

func nameOr(names map[uint32]string, id uint32) string {
	if name := names[id]; name != "" {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}
