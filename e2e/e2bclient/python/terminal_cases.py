"""pty.*: create, input, resize, connect, kill."""

from e2b import AuthenticationException, CommandExitException, NotFoundException, PtySize

from command_cases import NO_SUCH_PID
from suite import OTHER_USER, Collector, case, equal, eventually, raises


def terminal(run, **options):
    return Collector(run.pty.create(PtySize(rows=24, cols=80), **options))


def leave(run, shell, code=0):
    run.pty.send_stdin(shell.handle.pid, f"exit {code}\n".encode())
    shell.end()


@case
def pty_size_and_input(run):
    shell = terminal(run)
    run.pty.send_stdin(shell.handle.pid, b"stty size; echo [$TERM]\n")
    shell.until("24 80\r\n")
    shell.until("[xterm-256color]")
    leave(run, shell)
    equal(shell.error, None)


@case
def pty_resize(run):
    shell = terminal(run)
    run.pty.send_stdin(shell.handle.pid, b"trap 'echo resized to $(stty size)' WINCH\necho ready$((1 + 1))\n")
    shell.until("ready2")
    run.pty.resize(shell.handle.pid, PtySize(rows=31, cols=97))
    run.pty.send_stdin(shell.handle.pid, b'echo "now $(stty size)"\n')
    shell.until("resized to 31 97")
    shell.until("now 31 97")
    leave(run, shell)


@case
def pty_exit_code(run):
    shell = terminal(run)
    leave(run, shell, 3)
    equal((type(shell.error), shell.error.exit_code), (CommandExitException, 3))


@case
def pty_options(run):
    shell = terminal(run, user=OTHER_USER, cwd="/usr/lib", envs={"MARK": "of mine", "TERM": "vt100"})
    run.pty.send_stdin(shell.handle.pid, b'echo "[$(id -un) $PWD $MARK $TERM $(tty)]"\n')
    shell.until(f"[{OTHER_USER} /usr/lib of mine vt100 /dev/pts/")
    leave(run, shell)


@case
def pty_job_control(run):
    shell = terminal(run)
    run.pty.send_stdin(shell.handle.pid, b"(echo begun$((1 + 1)); sleep 600)\n")
    shell.until("begun2")
    run.pty.send_stdin(shell.handle.pid, b"\x03")
    run.pty.send_stdin(shell.handle.pid, b"echo still here$((1 + 1))\n")
    shell.until("still here2")
    leave(run, shell)


@case
def pty_kill(run):
    shell = terminal(run)
    equal(run.pty.kill(shell.handle.pid), True)
    shell.end()
    equal((type(shell.error), shell.error.exit_code), (CommandExitException, -1))
    eventually("it could not be killed again", lambda: run.pty.kill(shell.handle.pid) is False)


@case
def pty_connect(run):
    shell = run.pty.create(PtySize(rows=24, cols=80))
    shell.disconnect()
    again = Collector(run.pty.connect(shell.pid))
    run.pty.send_stdin(shell.pid, b"echo two$((1 + 1))\n")
    again.until("two2")
    leave(run, again)


@case
def pty_streamed_input(run):
    shell = terminal(run)
    run.pty.stream_input(shell.handle.pid, iter([b"echo str", b"eamed$((1 + 1))", b"\n"]))
    shell.until("streamed2")
    leave(run, shell)


@case
def pty_is_listed(run):
    shell = terminal(run)
    found = [p for p in run.commands.list() if p.pid == shell.handle.pid]
    leave(run, shell)
    equal([(p.cmd, p.args) for p in found], [("/bin/bash", ["-i", "-l"])])


@case
def pty_errors(run):
    raises(AuthenticationException, lambda: run.pty.create(PtySize(rows=1, cols=1), user="nobody-by-that-name"))
    raises(NotFoundException, lambda: run.pty.resize(NO_SUCH_PID, PtySize(rows=1, cols=1)))
    raises(NotFoundException, lambda: run.pty.send_stdin(NO_SUCH_PID, b"x"))
    raises(NotFoundException, lambda: run.pty.connect(NO_SUCH_PID))
    equal(run.pty.kill(NO_SUCH_PID), False)


@case
def pty_heavy_output(run):
    shell = terminal(run)
    run.pty.send_stdin(shell.handle.pid, b"stty -echo; seq 1 100000; echo end$((1 + 1))\n")
    shell.until("end2")
    missing = [i for i in (2, 12345, 99999, 100000) if f"\n{i}\r\n" not in shell.text]
    leave(run, shell)
    equal(missing, [])
