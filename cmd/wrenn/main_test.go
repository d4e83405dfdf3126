package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	if os.Getenv(diary) != "" {
		standIn()
	}
	testscript.Main(m, map[string]func(){"wrenn": func() { os.Exit(run()) }})
}

// noRaceSleep is for GORACE: programs built with -race otherwise sleep a second at their end.
const noRaceSleep = "atexit_sleep_ms=0"

// TestScripts runs the scripts in testdata/script, each against a fake service of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("WRENN_URL", newFake(t))
			env.Setenv("WRENN_API_KEY", fakeKey)
			env.Setenv("GORACE", noRaceSleep)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("WRENN_DATA", filepath.Join(env.WorkDir, "data"))
			env.Setenv("BYTES", "caf\xe9")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status, "repeat": repeat},
	})
}
