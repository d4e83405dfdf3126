package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wrenn-sandbox/wrenn/internal/id"
)

// journal is what users and faults have done, and when.
type journal struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func newJournal() *journal { return &journal{} }

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, time.Now().UTC().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// of returns the lines that name something.
func (j *journal) of(name string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(j.lines), func(line string) bool { return !strings.Contains(line, name) })
}

var sandboxForm = regexp.MustCompile(`sb-[0-9a-z]{8}`)

// explain keeps all that was done and all that was logged, where the test has failed or was a long one, and shows what has happened to the sandboxes that something is wrong with.
func (x *chaos) explain() {
	if !x.t.Failed() && os.Getenv(chaosEnv) == "" {
		return
	}
	dir, err := filepath.Abs(filepath.Join("..", "build", "chaos", fmt.Sprintf("seed-%d", x.seed)))
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "journal.log"), []byte(strings.Join(x.journal.of(""), "\n")+"\n"), 0o644)
	}
	if err == nil {
		err = exec.Command("cp", "-r", filepath.Join(x.Dir, "log"), filepath.Join(x.Dir, "databases", "log"), dir).Run()
	}
	x.t.Logf("the journal and all logs are in %s (%v); `make chaos SEED=%d` tries again", dir, err, x.seed)
	var wrong []string
	for _, line := range x.journal.of("WRONG: ") {
		wrong = append(wrong, sandboxForm.FindAllString(line, -1)...)
	}
	slices.Sort(wrong)
	for _, sandbox := range slices.Compact(wrong) {
		x.t.Logf("%s\n%s", sandbox, strings.Join(x.historyOf(sandbox), "\n"))
	}
}

// historyOf is what was done with a sandbox, and what its events say.
func (x *chaos) historyOf(sandbox string) []string {
	lines := x.journal.of(sandbox)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	events, err := x.tables.Store.Events(ctx, id.Sandbox(sandbox), 0, 1000)
	if err != nil {
		return append(lines, err.Error())
	}
	for _, e := range events {
		lines = append(lines, fmt.Sprintf("%s event %s -> %s by %s in %s: %s", e.At.UTC().Format("15:04:05.000"), e.From, e.To, e.Actor, e.Operation, e.Reason))
	}
	slices.Sort(lines)
	return lines
}
