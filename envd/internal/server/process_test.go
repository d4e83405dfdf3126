package server_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/wrenn-sandbox/wrenn/proto/gen/envd/process"

	"golang.org/x/sys/unix"
)

func TestExit(t *testing.T) {
	e := startDebug(t)
	for script, want := range map[string]struct {
		code   int32
		exited bool
		status string
		signal string
	}{
		"exit 0":        {0, true, "exit status 0", ""},
		"exit 7":        {7, true, "exit status 7", ""},
		"exit 255":      {255, true, "exit status 255", ""},
		"kill -TERM $$": {-1, false, "signal: terminated", "15"},
		"kill -KILL $$": {-1, false, "signal: killed", "9"},
	} {
		t.Run(script, func(t *testing.T) {
			res := e.run(shell(script))
			end := res.end
			if end.GetExitCode() != want.code || end.GetExited() != want.exited || end.GetStatus() != want.status || res.signal != want.signal {
				t.Errorf("end %v, signal %q", end, res.signal)
			}
			if failed := want.code != 0; failed != (end.Error != nil) || failed && end.GetError() != want.status {
				t.Errorf("error %v", end.Error)
			}
		})
	}
}

func TestOutputStreams(t *testing.T) {
	res := startDebug(t).run(shell(`printf out; printf err >&2; printf '\000\377\r\n'`))
	if res.stdout.String() != "out\x00\xff\r\n" || res.stderr.String() != "err" {
		t.Errorf("stdout %q, stderr %q", &res.stdout, &res.stderr)
	}
}

// The ids come from the account database, and nothing of envd's own leaks into the process.
func TestIdentity(t *testing.T) {
	e := startDebug(t)
	status := e.output(command("/bin/cat", "/proc/self/status"))
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Uid": "54321 54321 54321 54321", "Gid": "54322 54322 54322 54322", "Groups": "54400",
		"CapEff": "0000000000000000", "SigBlk": "0000000000000000",
		"SigIgn": statusLine(string(own), "SigIgn"), // what whoever runs the test had ignored, as nohup does, and no more
	} {
		if got := statusLine(status, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := statusLine(e.output(command("/bin/cat", "/proc/self/status"), "Authorization", "Basic cm9vdDo="), "Uid"); got != "0 0 0 0" {
		t.Errorf("as root: Uid is %q", got)
	}
	own, err = os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	if got := e.output(command("/bin/cat", "/proc/self/oom_score_adj")); got != string(own) {
		t.Errorf("oom_score_adj is %s", got)
	}
	// In /proc/pid/stat, counted after the name: session is field 4 and nice field 17; the pid comes first.
	stat := strings.Fields(e.output(command("/bin/cat", "/proc/self/stat")))
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // of whoever runs the test; 20 less what nice(2) has
	if err != nil {
		t.Fatal(err)
	}
	if stat[5] != stat[0] || stat[4] != stat[0] || stat[18] != strconv.Itoa(20-nice) {
		t.Errorf("group %s, session %s, nice %s of process %s", stat[4], stat[5], stat[18], stat[0])
	}
	if fds := e.output(shell("ls /proc/self/fd | tr '\n' ' '")); fds != "0 1 2 3 " { // 3 is that of ls
		t.Errorf("open files are %q", fds)
	}
}

func statusLine(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return "absent"
}

func TestEnvironment(t *testing.T) {
	e := startDebug(t)
	t.Setenv("ENVD_SECRET", "must not be seen")
	e.init(`{"envVars":{"FROM_INIT":"1","BOTH":"init","PATH":"/bin:/usr/bin"}}`)
	msg := command("env")
	msg.Process.Envs = map[string]string{"BOTH": "request", "EMPTY": "", "HOME": "/elsewhere"}
	got := strings.Fields(e.output(msg))
	slices.Sort(got)
	want := []string{
		"BOTH=request", "EMPTY=", "FROM_INIT=1", "HOME=/elsewhere", "LANG=C.UTF-8", "LOGNAME=tester",
		"PATH=/bin:/usr/bin", "SHELL=/bin/sh", "USER=tester",
	}
	if !slices.Equal(got, want) {
		t.Errorf("environment\n%v, want\n%v", got, want)
	}
	msg.Process.Envs = map[string]string{"A=B": "C"}
	_, err := e.begin(msg)
	wantCode(t, err, connect.CodeInvalidArgument, "A=B")
}

func TestWorkingDirectory(t *testing.T) {
	e := startDebug(t)
	if err := os.Mkdir(filepath.Join(e.home, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for cwd, want := range map[string]string{"": e.home, "sub": e.home + "/sub", "~/sub": e.home + "/sub", "/usr/../usr": "/usr", "~": e.home} {
		msg := command("pwd")
		msg.Process.Cwd = &cwd
		if got := strings.TrimSpace(e.output(msg)); got != want {
			t.Errorf("cwd %q leads to %q, want %q", cwd, got, want)
		}
	}
	for _, cwd := range []string{"/missing", "missing", "/etc/passwd"} {
		msg := command("pwd")
		msg.Process.Cwd = &cwd
		_, err := e.begin(msg)
		wantCode(t, err, connect.CodeInvalidArgument, "working directory")
	}
	e.init(`{"defaultWorkdir":"/usr/bin"}`)
	if got := e.output(command("pwd")); got != "/usr/bin\n" {
		t.Errorf("the default directory is %q", got)
	}
}

func TestCannotStart(t *testing.T) {
	e := startDebug(t)
	script := filepath.Join(e.home, "script")
	for path, text := range map[string]string{script: "#!/missing/interpreter\n", script + "2": "plain text", script + "3": ""} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(script+"3", 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cmd  string
		args []string
		code connect.Code
		text string
	}{
		{"no-such-command", nil, connect.CodeInvalidArgument, "command not found: no-such-command"},
		{"/no/such/file", nil, connect.CodeInvalidArgument, "command not found: /no/such/file"},
		{"/etc/passwd/x", nil, connect.CodeInvalidArgument, "command not found: /etc/passwd/x"},
		{"", nil, connect.CodeInvalidArgument, "no command"},
		{"/etc", nil, connect.CodeInvalidArgument, "permission denied"},
		{script, nil, connect.CodeInvalidArgument, "interpreter"},
		{script + "2", nil, connect.CodeInvalidArgument, "#!"},
		{script + "3", nil, connect.CodeInvalidArgument, "permission denied"},
		{"echo", []string{"a\x00b"}, connect.CodeInvalidArgument, "NUL"},
		{"echo", []string{strings.Repeat("x", 200<<10)}, connect.CodeInvalidArgument, "too long"}, // MAX_ARG_STRLEN is 128 KiB
	} {
		_, err := e.begin(command(c.cmd, c.args...))
		wantCode(t, err, c.code, c.text)
	}
	if list := e.list(); len(list) != 0 {
		t.Errorf("%v run", list)
	}
}

func TestUnknownUser(t *testing.T) {
	e := startDebug(t)
	_, err := e.begin(command("true"), "Authorization", "Basic bm9ib2R5LWhlcmU6")
	wantCode(t, err, connect.CodeUnauthenticated, "invalid username: 'nobody-here'")
	if reason := err.(*connect.Error).Meta().Get("Wrenn-Reason"); reason != "unknown_user" {
		t.Errorf("reason %q", reason)
	}
	_, err = e.begin(command("true"), "Authorization", "Basic ???")
	wantCode(t, err, connect.CodeUnauthenticated, "base64")
}

// Long argument lists arrive whole, up to what the kernel takes.
func TestHugeArguments(t *testing.T) {
	e := startDebug(t)
	args := []string{"-c", `echo $# ${#1}`, "sh"}
	for range 10 {
		args = append(args, strings.Repeat("y", 100<<10))
	}
	if got := e.output(command("/bin/sh", args...)); got != "10 102400\n" {
		t.Errorf("the process saw %q", got)
	}
}

func (e *envd) list() []*pb.ProcessInfo {
	e.Helper()
	resp, err := e.rpc.List(context.Background(), connect.NewRequest(&pb.ListRequest{}))
	if err != nil {
		e.Fatal(err)
	}
	return resp.Msg.GetProcesses()
}

func TestListAndTag(t *testing.T) {
	e := startDebug(t)
	tag, cwd := "the-tag", "/usr"
	msg := command("sleep", "1000")
	msg.Tag, msg.Process.Cwd, msg.Process.Envs = &tag, &cwd, map[string]string{"A": "1"}
	r := e.mustBegin(msg)
	other := e.mustBegin(command("sleep", "1000"))
	list := e.list()
	if len(list) != 2 || list[0].GetPid() != r.pid || list[1].GetPid() != other.pid {
		t.Fatalf("list is %v", list)
	}
	config := list[0].GetConfig()
	if list[0].GetTag() != tag || config.GetCmd() != "sleep" || config.GetCwd() != cwd || config.GetEnvs()["A"] != "1" || list[1].Tag != nil {
		t.Errorf("list is %v", list)
	}
	byTag := &pb.ProcessSelector{Selector: &pb.ProcessSelector_Tag{Tag: tag}}
	if _, err := e.rpc.SendSignal(t.Context(), connect.NewRequest(&pb.SendSignalRequest{Process: byTag, Signal: pb.Signal_SIGNAL_SIGTERM})); err != nil {
		t.Fatal(err)
	}
	if res := r.finish(); res.signal != "15" {
		t.Errorf("end %v, error %v", res.end, res.err)
	}
	if err := e.signal(other.pid, 9); err != nil {
		t.Error(err)
	}
	if res := other.finish(); res.signal != "9" {
		t.Errorf("end %v, error %v", res.end, res.err)
	}
	if list := e.list(); len(list) != 0 {
		t.Errorf("list is %v", list)
	}
}

func TestSignalErrors(t *testing.T) {
	e := startDebug(t)
	wantCode(t, e.signal(1<<22+1, 9), connect.CodeNotFound, "not found")
	wantCode(t, e.signal(uint32(os.Getpid()), 9), connect.CodeNotFound, "not found")
	wantCode(t, e.signal(1, 0), connect.CodeInvalidArgument, "invalid signal")
	wantCode(t, e.signal(1, 65), connect.CodeInvalidArgument, "invalid signal")
	_, err := e.rpc.SendSignal(t.Context(), connect.NewRequest(&pb.SendSignalRequest{Signal: 9}))
	wantCode(t, err, connect.CodeInvalidArgument, "no process")
	unknown := &pb.ProcessSelector{Selector: &pb.ProcessSelector_Tag{Tag: "none"}}
	_, err = e.rpc.CloseStdin(t.Context(), connect.NewRequest(&pb.CloseStdinRequest{Process: unknown}))
	wantCode(t, err, connect.CodeNotFound, "none")
}

func TestOtherSignals(t *testing.T) {
	e := startDebug(t)
	r := e.mustBegin(shell(`trap 'echo usr1; exit 3' USR1; echo ready; while :; do sleep 0.01; done`))
	if !r.stream.Receive() {
		t.Fatal(r.stream.Err())
	}
	if err := e.signal(r.pid, 10); err != nil {
		t.Fatal(err)
	}
	if res := r.finish(); res.end.GetExitCode() != 3 || res.stdout.String() != "usr1\n" {
		t.Errorf("end %v, stdout %q", res.end, &res.stdout)
	}
}

func TestTerminalsAreNotImplemented(t *testing.T) {
	e := startDebug(t)
	msg := command("sh")
	msg.Pty = &pb.PTY{Size: &pb.PTY_Size{Cols: 80, Rows: 24}}
	_, err := e.begin(msg)
	wantCode(t, err, connect.CodeUnimplemented, "terminals")
	_, err = e.rpc.Update(t.Context(), connect.NewRequest(&pb.UpdateRequest{}))
	wantCode(t, err, connect.CodeUnimplemented, "terminals")
}

func TestKeepalive(t *testing.T) {
	res := startDebug(t).run(shell("sleep 2.5"), "Keepalive-Ping-Interval", "1")
	if res.keepalives == 0 {
		t.Error("no keepalive was sent")
	}
}
