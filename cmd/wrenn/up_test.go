package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/wrenn-sandbox/wrenn/internal/devstack"
	"github.com/wrenn-sandbox/wrenn/internal/testlane"
)

func TestUpRunsACommandAndEndsInOrder(t *testing.T) {
	u := newUpTest(t)
	s := u.start(append(noDatabases, "--", "sh", "-c", `echo "$WRENN_URL $WRENN_API_KEY"; exit 5`)...)
	s.wait(5)
	if !regexp.MustCompile(`^http://127\.0\.0\.1:\d+ ` + fakeKey + "\n$").MatchString(s.stdout.String()) {
		t.Errorf("the command said %q", s.stdout.String())
	}
	if strings.Contains(s.stderr.String(), "last words") {
		t.Errorf("the parts' logs are shown beside a command:\n%s", s.stderr.String())
	}
	flags := " --data " + u.data + " --listen unix://" + u.data + "/agent.sock --kernel " + u.bin + " --images " + u.bin +
		" --driver auto --volume auto --subnet 10.0.0.0/16 --objects " + u.data + "/objects$"
	u.wantDiary("agent serve"+flags, "control-plane serve$", "control-plane destroys sb-00000001$", "control-plane got terminated$",
		"agent got terminated$", "agent purge"+flags)
	u.wantDiary("control-plane seed --key-file " + u.data + "/dev-key$")
	if strings.Contains(u.diary(), "from outside") {
		t.Errorf("a foreign key or URL was passed on:\n%s", u.diary())
	}
	u.wantNothingLeft()
}

func TestUpWithItsOwnDatabases(t *testing.T) {
	if _, err := devstack.FindBinaries(); err != nil {
		testlane.Missing(t, err.Error())
	}
	u := newUpTest(t)
	for range 2 { // the second time on what the first left
		u.start("--", "true").wait(0)
		u.wantNothingLeft()
	}
	if _, err := os.Stat(filepath.Join(u.data, "databases", "postgres", "PG_VERSION")); err != nil {
		t.Errorf("the database is not kept: %v", err)
	}
}

func TestUpSaysHowToUseItAndEndsOnSignals(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		u := newUpTest(t)
		env := filepath.Join(filepath.Dir(u.data), "env")
		s := u.start(append(noDatabases, "--env-file", env)...)
		s.untilReady()
		for _, want := range []string{"Templates: minimal", "export WRENN_URL=http://127.0.0.1:", "WRENN_API_KEY=" + fakeKey, "wrenn create minimal", "destroys its sandboxes"} {
			if !strings.Contains(s.said(&s.stdout), want) {
				t.Errorf("it does not say %q:\n%s", want, s.said(&s.stdout))
			}
		}
		info, err := os.Stat(env)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file of variables: %v, %v", info, err)
		}
		s.signal(sig)
		s.wait(0)
		for _, want := range []string{"host-agent | agent says its\tlast words[2J", "destroying 1 sandbox(es); --keep would leave them running"} {
			if !strings.Contains(s.stderr.String(), want) {
				t.Errorf("it does not say %q:\n%s", want, s.stderr.String())
			}
		}
		u.wantNothingLeft()
	}
}

func TestUpJSON(t *testing.T) {
	u := newUpTest(t)
	s := u.start(append(noDatabases, "--json")...)
	s.until("JSON", func() bool { return strings.HasSuffix(s.said(&s.stdout), "}\n") })
	var got struct {
		URL    string `json:"url"`
		APIKey string `json:"api_key"`
		Data   string `json:"data"`
	}
	if err := json.Unmarshal([]byte(s.said(&s.stdout)), &got); err != nil || got.APIKey != fakeKey || got.Data != u.data || !strings.HasPrefix(got.URL, "http://127.0.0.1:") {
		t.Errorf("%+v, %v", got, err)
	}
	s.signal(syscall.SIGTERM)
	s.wait(0)
}

func TestUpKeepsSandboxesForTheNextOne(t *testing.T) {
	u := newUpTest(t)
	u.start(append(noDatabases, "--keep", "--netns", "isolated", "--", "true")...).wait(0)
	if d := u.diary(); strings.Contains(d, "purge") || strings.Contains(d, "destroys") {
		t.Errorf("sandboxes were destroyed:\n%s", d)
	}
	if _, err := os.Stat(filepath.Join(u.data, "netns")); err != nil {
		t.Errorf("the sandboxes' network is gone: %v", err)
	}

	s := u.start(append(noDatabases, "--keep", "--netns", "isolated", "--", "true")...)
	s.wait(0)
	if !strings.Contains(s.stderr.String(), "taking over") || strings.Contains(u.diary(), "purge") {
		t.Errorf("it did not take over:\n%s\n%s", s.stderr.String(), u.diary())
	}

	// A start that fails leaves them alone too.
	u.start(append([]string{"AGENT=dies"}, append(noDatabases, "--netns", "isolated", "--", "true")...)...).wait(9)
	if d := u.diary(); strings.Contains(d, "purge") {
		t.Errorf("a failed start destroyed sandboxes:\n%s", d)
	}

	// Other settings cannot take them over: they are removed first, with the settings they were made with.
	s = u.start(append(noDatabases, "--subnet", "10.9.0.0/16", "--", "true")...)
	s.wait(0)
	u.wantDiary(`agent serve .*10\.0\.0\.0/16 --netns`, `agent purge .*10\.0\.0\.0/16 --netns`, `agent serve .*10\.9\.0\.0/16 --objects`, `agent purge .*10\.9\.0\.0/16 --objects`)
	u.wantNothingLeft()
}

func TestUpIsolatedMakesAndRemovesANamespace(t *testing.T) {
	u := newUpTest(t)
	u.start(append(noDatabases, "--netns", "isolated", "--", "true")...).wait(0)
	u.wantDiary("agent serve .*--netns "+u.data+"/netns --objects", "agent purge .*--netns "+u.data+"/netns --objects")
	u.wantNothingLeft()
}
