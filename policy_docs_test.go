package wrenn

import (
	"bufio"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The documents that promise something and name the tests that hold it.
var promises = []string{"SPECIFICATION.md", "docs/design/threat-model.md"}

var (
	// namedTest is a test as a document names it. TestX… stands for all tests that begin so.
	namedTest = regexp.MustCompile(`\b((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)(…?)`)
	// namedFolder is the folder that the tests behind it are in, as in "internal/api: TestExec, TestWatch".
	namedFolder = regexp.MustCompile(`([A-Za-z0-9_./-]+): ?$`)
	testFunc    = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
)

// TestPromisesAreHeld: a test that a document names exists, in the folder that it names.
func TestPromisesAreHeld(t *testing.T) {
	tests := testsByFolder(t)
	for _, document := range promises {
		f, err := os.Open(document)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		for n := 1; lines.Scan(); n++ {
			for _, name := range missing(lines.Text(), tests) {
				t.Errorf("%s:%d names %s, which is no test of this tree", document, n, name)
			}
		}
		if err := lines.Err(); err != nil {
			t.Error(err)
		}
		_ = f.Close()
	}
}

// TestMissing: the check itself finds what is wrong.
func TestMissing(t *testing.T) {
	tests := map[string][]string{"internal/api": {"TestExec", "TestExecStream"}, "e2e": {"TestExec"}, "envd/internal/server": {"TestToken"}}
	for text, want := range map[string]string{
		"| x | internal/api: TestExec, TestExecStream; e2e: TestExec |": "",
		"| x | internal/api: TestExecutive |":                           "internal/api: TestExecutive",
		"| x | e2e: TestExecStream |":                                   "e2e: TestExecStream",
		"| x | `make test-firecracker`: TestToken |":                    "",
		"`up` (internal/api: TestExec…)":                                "",
		"`up` (internal/api: TestUp…)":                                  "internal/api: TestUp…",
		"TestToken alone, TestNothing alone":                            "TestNothing",
		"nosuch/folder: TestExec":                                       "nosuch/folder: TestExec",
	} {
		if got := strings.Join(missing(text, tests), " "); got != want {
			t.Errorf("%s: %q, not %q", text, got, want)
		}
	}
}

// missing returns the tests that a line of a document names and that are not there. A name without a folder may be anywhere.
func missing(line string, tests map[string][]string) []string {
	var names []string
	folder := ""
	end := 0
	for _, at := range namedTest.FindAllStringSubmatchIndex(line, -1) {
		before := line[end:at[0]]
		end = at[1]
		if strings.ContainsAny(before, "|;(`") {
			folder = ""
		}
		if named := namedFolder.FindStringSubmatch(before); named != nil {
			folder = named[1]
		}
		name, all := line[at[2]:at[3]], at[4] < at[5]
		if !exists(name, all, folder, tests) {
			names = append(names, strings.TrimPrefix(folder+": ", ": ")+line[at[0]:at[1]])
		}
	}
	return names
}

func exists(name string, prefix bool, folder string, tests map[string][]string) bool {
	fits := func(test string) bool { return test == name || prefix && strings.HasPrefix(test, name) }
	for dir, all := range tests {
		if (folder == "" || folder == dir) && slices.ContainsFunc(all, fits) {
			return true
		}
	}
	return false
}

func testsByFolder(t *testing.T) map[string][]string {
	t.Helper()
	tests := map[string][]string{}
	for _, name := range trackedGoFiles(t) {
		if !strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range testFunc.FindAllSubmatch(text, -1) {
			dir := path.Dir(filepath.ToSlash(name))
			tests[dir] = append(tests[dir], string(found[1]))
		}
	}
	return tests
}
