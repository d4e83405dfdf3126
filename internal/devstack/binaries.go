package devstack

import (
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/wrenn-sandbox/wrenn/internal/models"
)

// debianPostgres is where Debian and Ubuntu keep the servers' programs, one folder a major version.
const debianPostgres = "/usr/lib/postgresql"

// Binaries are the programs of the installed servers.
type Binaries struct {
	Postgres string // the server; initdb lies beside it
	Redis    string
}

// FindBinaries finds the newest installed Postgres and Redis servers. What is missing
// is a Precondition error that names the package to install.
func FindBinaries() (Binaries, error) {
	redis, err := exec.LookPath("redis-server")
	if err != nil {
		return Binaries{}, models.Errorf(models.Precondition, "redis-server is not installed").
			WithHint("apt-get install redis-server")
	}
	postgres := newest(postgresVersions(debianPostgres))
	if postgres == "" {
		postgres = besideInitdb()
	}
	if postgres == "" {
		return Binaries{}, models.Errorf(models.Precondition, "no Postgres server is installed").
			WithHint("apt-get install postgresql")
	}
	return Binaries{Postgres: postgres, Redis: redis}, nil
}

// postgresVersions maps major versions to server programs below root.
func postgresVersions(root string) map[int]string {
	found := map[int]string{}
	paths, _ := filepath.Glob(filepath.Join(root, "*", "bin", "postgres")) // fails only on a bad pattern
	for _, p := range paths {
		major, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(p))))
		if _, initdb := os.Stat(filepath.Join(filepath.Dir(p), "initdb")); err == nil && initdb == nil {
			found[major] = p
		}
	}
	return found
}

func newest(versions map[int]string) string {
	majors := make([]int, 0, len(versions))
	for m := range versions {
		majors = append(majors, m)
	}
	sort.Ints(majors)
	if len(majors) == 0 {
		return ""
	}
	return versions[majors[len(majors)-1]]
}

// besideInitdb finds Postgres on the PATH, for systems other than Debian's kin.
func besideInitdb() string {
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return ""
	}
	if target, err := filepath.EvalSymlinks(initdb); err == nil {
		initdb = target
	}
	server := filepath.Join(filepath.Dir(initdb), "postgres")
	if _, err := os.Stat(server); err != nil {
		return ""
	}
	return server
}

// postgresFor returns the server program for a data folder, which only its own major
// version can open; def for a folder that does not exist yet.
func postgresFor(data, def string) (string, error) {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if os.IsNotExist(err) {
		return def, nil
	}
	if err != nil {
		return "", err
	}
	versions := postgresVersions(debianPostgres)
	major, numeric := strconv.Atoi(strings.TrimSpace(string(b))) // versions before 10 had a point
	if numeric != nil || len(versions) == 0 {
		return def, nil //nolint:nilerr // the server itself refuses what is not its own
	}
	if p, ok := versions[major]; ok {
		return p, nil
	}
	return "", models.Errorf(models.Precondition, "the database in %s was made by Postgres %d, which is not installed", data, major).
		WithHint("apt-get install postgresql-%d, or remove the folder to start anew", major)
}
