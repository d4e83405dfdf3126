package jail

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Account is whom the ids of VMMs are set apart for when a host is set up, so that useradd(8) gives them to nobody.
const Account = "wrenn"

// ErrTaken is of ids that somebody has.
var ErrTaken = errors.New("ids are taken")

// CheckFree returns an ErrTaken that names who has one of the count user or group ids from base on, according to the files in etc, which is /etc: a user of
// passwd(5), a group of group(5), or somebody's containers, subuid(5) and subgid(5). Users from elsewhere are not known of. What is set apart there for
// Account is free: it is set apart for VMMs.
func CheckFree(etc string, base, count uint32) error {
	for _, list := range []struct {
		file string
		ids  func(fields []string) (first, n uint64, err error)
	}{{"passwd", oneID}, {"group", oneID}, {"subuid", rangeOfIDs}, {"subgid", rangeOfIDs}} {
		path := filepath.Join(etc, list.file)
		err := eachLine(path, func(fields []string) error {
			first, n, err := list.ids(fields)
			if list.file[:3] == "sub" && fields[0] == Account {
				return nil
			}
			if err == nil && first < uint64(base)+uint64(count) && uint64(base) < first+n {
				return fmt.Errorf("%w: %s has %d to %d in %s", ErrTaken, fields[0], first, first+n-1, path)
			}
			return nil // a line that makes no sense gives nobody anything
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func oneID(fields []string) (first, n uint64, err error) {
	if len(fields) < 3 {
		return 0, 0, errors.ErrUnsupported
	}
	first, err = strconv.ParseUint(fields[2], 10, 32)
	return first, 1, err
}

func rangeOfIDs(fields []string) (first, n uint64, err error) {
	if len(fields) < 3 {
		return 0, 0, errors.ErrUnsupported
	}
	first, errFirst := strconv.ParseUint(fields[1], 10, 32)
	n, errN := strconv.ParseUint(fields[2], 10, 32)
	return first, n, errors.Join(errFirst, errN)
}

// eachLine calls f for every line of a file, cut at its colons. A file that does not exist has none.
func eachLine(path string, f func(fields []string) error) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if err := f(strings.Split(lines.Text(), ":")); err != nil {
			return err
		}
	}
	return lines.Err()
}
