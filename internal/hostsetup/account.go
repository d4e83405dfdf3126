package hostsetup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// account is a user or group of the system, by its name.
type account struct{ kind, database string }

func (a account) read(_ context.Context, m *machine, target string) (state, error) {
	rows, err := m.rows(a.database)
	for _, row := range rows {
		if row[0] == target {
			return state{Present: true}, err
		}
	}
	return state{}, err
}

func (a account) write(ctx context.Context, m *machine, target string, to state) error {
	program, args := a.kind+"del", []string{target}
	if to.Present {
		program, args = a.kind+"add", append(slices.Clone(systemAccount[a.kind]), target)
	}
	if m.root != "/" {
		args = append([]string{"--prefix", m.root}, args...)
	}
	return m.run(ctx, program, args...)
}

func (account) words(s state) string { return presence(s) }

// systemAccount are the arguments of useradd(8) and groupadd(8). A user gets the group of its name.
var systemAccount = map[string][]string{
	"group": {"--system"},
	"user":  {"--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", "--gid", accountName},
}

// rows reads a database of passwd(5)'s form. One that is absent is empty.
func (m *machine) rows(database string) ([][]string, error) {
	content, err := os.ReadFile(m.path(database))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var rows [][]string
	for row := range strings.Lines(string(content)) {
		if fields := strings.Split(strings.TrimSpace(row), ":"); len(fields) > 2 {
			rows = append(rows, fields)
		}
	}
	return rows, err
}

// groupName is the number itself where it has no name.
func (m *machine) groupName(gid int) string {
	rows, _ := m.rows("/etc/group") // what cannot be read has no names
	for _, row := range rows {
		if row[2] == strconv.Itoa(gid) {
			return row[0]
		}
	}
	return strconv.Itoa(gid)
}

func (m *machine) groupID(name string) (int, error) {
	rows, err := m.rows("/etc/group")
	if err != nil {
		return 0, err
	}
	for _, row := range rows {
		if row[0] == name {
			return strconv.Atoi(row[2])
		}
	}
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	return 0, fmt.Errorf("there is no group %s", name)
}

// The user ids that VMMs run as, one a slot. They belong to no account; the lines in subuid(5) and subgid(5) keep useradd
// from giving them to one.
const (
	FirstUID = 200000
	UIDs     = 65536
)
