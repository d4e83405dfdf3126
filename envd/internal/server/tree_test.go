package server_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-sandbox/wrenn/envd/internal/http"
	"github.com/wrenn-sandbox/wrenn/envd/internal/http/httptest"
	"github.com/wrenn-sandbox/wrenn/envd/internal/testlane"
)

func needCgroup(t *testing.T) {
	if cgroups == "" {
		testlane.Missing(t, "no writable cgroup v2 mount")
	}
}

// daemon starts a process that leaves its session, keeps the pipes and writes its pid to a file.
func daemon(pidFile string) string {
	return "(setsid sh -c 'echo $$ >" + pidFile + "; exec sleep 1000' &); while [ ! -s " + pidFile + " ]; do sleep 0.01; done; "
}

// A timeout is an error in E2B's protocol, and in ours a way to end.
func TestTimeoutKillsTheTree(t *testing.T) {
	needCgroup(t)
	e := startDebug(t)
	for _, extensions := range []string{"0", "1"} {
		pidFile := filepath.Join(e.home, "pid"+extensions)
		r := e.mustBegin(shell(daemon(pidFile)+"trap '' TERM; echo up; sleep 1000"), "Connect-Timeout-Ms", "4000", "Wrenn-Extensions", extensions)
		pid := readPID(t, pidFile)
		res := r.finish()
		if extensions == "0" {
			wantCode(t, res.err, connect.CodeDeadlineExceeded, "4s")
		} else if res.err != nil || res.end.GetSignal() != 9 || !res.end.GetTimedOut() {
			t.Errorf("end %v, error %v", res.end, res.err)
		}
		if res.stdout.String() != "up\n" {
			t.Errorf("stdout %q", &res.stdout)
		}
		eventually(t, gone(int(r.pid)))
		eventually(t, gone(pid))
	}
}

// The timeout holds though the caller has gone away.
func TestTimeoutAfterDisconnect(t *testing.T) {
	e := startDebug(t)
	r := e.mustBegin(command("sleep", "1000"), "Connect-Timeout-Ms", "1500")
	r.cancel()
	eventually(t, gone(int(r.pid)))
}

func TestTimeoutThatIsNotReached(t *testing.T) {
	e := startDebug(t)
	if got := e.output(command("echo", "x"), "Connect-Timeout-Ms", "60000"); got != "x\n" {
		t.Errorf("stdout %q", got)
	}
	for _, bad := range []string{"-1", "x", "99999999999"} {
		_, err := e.begin(command("true"), "Connect-Timeout-Ms", bad)
		wantCode(t, err, connect.CodeInvalidArgument, "Connect-Timeout-Ms")
	}
}

func TestProcessSurvivesDisconnect(t *testing.T) {
	e := startDebug(t)
	done := filepath.Join(e.home, "done")
	r := e.mustBegin(shell("sleep 0.5; echo text; echo $$ >" + done))
	r.cancel()
	if readPID(t, done) != int(r.pid) {
		t.Error("another process wrote")
	}
	eventually(t, gone(int(r.pid)))
}

func TestDisconnectKillsWhereAsked(t *testing.T) {
	needCgroup(t)
	e := startDebug(t)
	pidFile := filepath.Join(e.home, "pid")
	r := e.mustBegin(shell(daemon(pidFile)+"sleep 1000"), "Wrenn-Kill-On-Disconnect", "1")
	pid := readPID(t, pidFile)
	r.cancel()
	eventually(t, gone(int(r.pid)))
	eventually(t, gone(pid))
}

func TestKillReachesDaemons(t *testing.T) {
	needCgroup(t)
	e := startDebug(t)
	pidFile := filepath.Join(e.home, "pid")
	r := e.mustBegin(shell(daemon(pidFile) + "sleep 1000"))
	pid := readPID(t, pidFile)
	if err := e.signal(r.pid, 9); err != nil {
		t.Fatal(err)
	}
	if res := r.finish(); res.end.GetSignal() != 9 || res.end.GetExited() {
		t.Errorf("end %v", res.end)
	}
	eventually(t, gone(pid))
}

// SIGTERM goes to the group, and one that ignores it lives until SIGKILL.
func TestIgnoredTerm(t *testing.T) {
	e := startDebug(t)
	r := e.mustBegin(shell("trap '' TERM; echo up; sleep 1000; echo end; sleep 1000"))
	if !r.stream.Receive() {
		t.Fatal(r.stream.Err())
	}
	if err := e.signal(r.pid, 15); err != nil {
		t.Fatal(err)
	}
	if !alive(int(r.pid)) {
		t.Error("it ended")
	}
	if err := e.signal(r.pid, 9); err != nil {
		t.Fatal(err)
	}
	if res := r.finish(); res.end.GetSignal() != 9 {
		t.Errorf("end %v, error %v", res.end, res.err)
	}
	wantCode(t, e.signal(r.pid, 9), connect.CodeNotFound, "not found")
}

// A daemon that keeps the pipes does not hold up the call, and lives on: what it writes later is
// read and forgotten.
func TestDaemonKeepsPipes(t *testing.T) {
	e := startDebug(t)
	pidFile := filepath.Join(e.home, "pid")
	alsoFile := filepath.Join(e.home, "wrote")
	script := "(setsid sh -c 'echo $$ >" + pidFile + "; sleep 1; head -c 1000000 /dev/zero && echo $$ >" + alsoFile + "; exec sleep 1000' &); " +
		"while [ ! -s " + pidFile + " ]; do sleep 0.01; done; head -c 300000 /dev/zero; echo last; exit 4"
	res := e.run(shell(script))
	if res.end.GetExitCode() != 4 || res.stdout.Len() != 300005 {
		t.Errorf("end %v, %d bytes", res.end, res.stdout.Len())
	}
	pid := readPID(t, pidFile)
	if readPID(t, alsoFile) != pid {
		t.Error("another process wrote")
	}
	if err := e.server.Close(); err != nil { // ends the reading of the leftovers
		t.Error(err)
	}
	if err := killPID(pid); err != nil {
		t.Error(err)
	}
	eventually(t, gone(pid))
}

// A daemon that writes without end does not hold up the call either.
func TestChattyDaemon(t *testing.T) {
	e := startDebug(t)
	pidFile := filepath.Join(e.home, "pid")
	res := e.run(shell("(setsid sh -c 'echo $$ >" + pidFile + "; exec yes' &); while [ ! -s " + pidFile + " ]; do sleep 0.01; done; exit 6"))
	if res.end.GetExitCode() != 6 {
		t.Errorf("end %v", res.end)
	}
	pid := readPID(t, pidFile)
	if !alive(pid) {
		t.Error("the daemon ended")
	}
	if err := killPID(pid); err != nil {
		t.Error(err)
	}
	eventually(t, gone(pid))
}

// The tail of a pipeline that the shell did not wait for belongs to the output.
func TestTailAfterExit(t *testing.T) {
	e := startDebug(t)
	if got := e.output(shell("(sleep 0.03; echo tail) & echo head")); got != "head\ntail\n" {
		t.Errorf("stdout %q", got)
	}
}

// Closing the server ends what runs, at once.
func TestCloseEndsEverything(t *testing.T) {
	e := startDebug(t)
	var runs []*running
	for range 5 {
		runs = append(runs, e.mustBegin(shell("trap '' TERM HUP INT; yes; sleep 1000")))
	}
	time.Sleep(50 * time.Millisecond) // lets some output queue up; nothing depends on it
	if err := e.server.Close(); err != nil {
		t.Fatal(err)
	}
	for _, r := range runs {
		eventually(t, gone(int(r.pid)))
	}
}

// A server that is closed starts nothing more, though a connection that it does not own may still ask.
func TestClosedServerStartsNothing(t *testing.T) {
	e := startDebug(t)
	if err := e.server.Close(); err != nil {
		t.Fatal(err)
	}
	request := frame{data: []byte(`{"process":{"cmd":"true"}}`)}.encode()
	header := http.Header{"Content-Type": {"application/connect+json"}}
	answer := httptest.Ask(t, e.server, "POST", "/process.Process/Start", header, bytes.NewReader(request))
	if text := answer.Body.String(); !strings.Contains(text, `"unavailable"`) || !strings.Contains(text, "shutting down") {
		t.Errorf("%d %q", answer.Status, text)
	}
}
