"""commands.*: run, background, stdin, connect, list, kill, timeouts."""

import asyncio
import hashlib
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from e2b import (
    AsyncSandbox,
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    TimeoutException,
)

from suite import OTHER_USER, Collector, case, equal, eventually, raises, true

NO_SUCH_PID = 4_000_000  # above pid_max of a 32 bit count and of Debian's 4194304 in use


@case
def run_gives_both_streams(run):
    result = run.commands.run("echo out; echo err >&2")
    equal((result.stdout, result.stderr, result.exit_code, result.error), ("out\n", "err\n", 0, None))


@case
def run_exit_code(run):
    error = raises(CommandExitException, lambda: run.commands.run("echo before; echo why >&2; exit 7"))
    equal((error.exit_code, error.stdout, error.stderr, error.error), (7, "before\n", "why\n", "exit status 7"))


@case
def run_unknown_command(run):
    error = raises(CommandExitException, lambda: run.commands.run("no-such-command-here"))
    equal(error.exit_code, 127)
    true("no-such-command-here" in error.stderr, f"stderr {error.stderr!r}")


@case
def run_ended_by_a_signal(run):
    error = raises(CommandExitException, lambda: run.commands.run("kill -TERM $$"))
    equal((error.exit_code, error.error), (-1, "signal: terminated"))


@case
def run_envs(run):
    result = run.commands.run('echo "$ONE|$TWO|$PATH"', envs={"ONE": "a b", "TWO": "ü=$HOME"})
    one, two, path = result.stdout.strip().split("|")
    equal((one, two), ("a b", "ü=$HOME"))
    true("/bin" in path, f"PATH {path!r}")


@case
def run_cwd(run):
    equal(run.commands.run("pwd", cwd="/usr/lib").stdout, "/usr/lib\n")
    home = run.commands.run("cd; pwd").stdout
    equal(run.commands.run("pwd").stdout, home)
    raises(InvalidArgumentException, lambda: run.commands.run("pwd", cwd=run.path("absent")))


@case
def run_is_a_login_shell(run):
    equal(run.commands.run("shopt -q login_shell && echo login").stdout, "login\n")


@case
def run_user(run):
    for name in ("root", OTHER_USER):
        script = 'echo "$(id -un) $USER $LOGNAME $HOME $(getent passwd "$(id -un)" | cut -d: -f6)"'
        who, user, logname, home, entry = run.commands.run(script, user=name).stdout.split()
        equal((who, user, logname, home), (name, name, name, entry))
    supplementary = run.commands.run("id -G", user=OTHER_USER).stdout.split()
    true("0" not in supplementary, f"groups of {OTHER_USER}: {supplementary}")


@case
def run_unknown_user(run):
    error = raises(AuthenticationException, lambda: run.commands.run("true", user="nobody-by-that-name"))
    true("nobody-by-that-name" in str(error), f"message {error}")


@case
def run_callbacks(run):
    out, err = [], []
    run.commands.run(
        "for i in 1 2 3; do echo $i; echo -$i >&2; sleep 0.05; done", on_stdout=out.append, on_stderr=err.append
    )
    equal(("".join(out), "".join(err)), ("1\n2\n3\n", "-1\n-2\n-3\n"))
    true(len(out) > 1, f"all output came at once: {out}")


@case
def run_timeout_kills(run):
    mark = uuid.uuid4().hex
    begin = time.monotonic()
    raises(TimeoutException, lambda: run.commands.run(f"sleep 600 # {mark}", timeout=1))
    true(time.monotonic() - begin < 20, "the timeout did not end the call")
    eventually("the command was gone", lambda: not listed(run, mark))


def listed(run, mark):
    return [p for p in run.commands.list() if any(mark in arg for arg in p.args)]


@case
def run_without_stdin_reads_its_end(run):
    equal(run.commands.run("cat; echo over", timeout=10).stdout, "over\n")


@case
def list_shows_what_runs(run):
    command = f"sleep 600 # {uuid.uuid4().hex}"
    handle = run.commands.run(command, background=True, envs={"MARK": "m"}, cwd="/usr")
    try:
        found = [p for p in run.commands.list() if p.pid == handle.pid]
        equal(len(found), 1)
        p = found[0]
        equal((p.cmd, p.args, p.envs.get("MARK"), p.cwd, p.tag), ("/bin/bash", ["-l", "-c", command], "m", "/usr", None))
    finally:
        handle.kill()
    eventually("it was not listed", lambda: handle.pid not in [p.pid for p in run.commands.list()])


@case
def background_wait(run):
    handle = run.commands.run("sleep 0.3; echo late; exit 5", background=True)
    true(handle.pid > 0, f"pid {handle.pid}")
    error = raises(CommandExitException, handle.wait)
    equal((error.exit_code, error.stdout), (5, "late\n"))


@case
def background_iterates(run):
    handle = run.commands.run("echo a; echo b >&2; exit 0", background=True)
    pieces = list(handle)
    equal("".join(out for out, _, _ in pieces if out), "a\n")
    equal("".join(err for _, err, _ in pieces if err), "b\n")


@case
def kill(run):
    handle = run.commands.run("sleep 600", background=True)
    equal(handle.kill(), True)
    error = raises(CommandExitException, handle.wait)
    equal((error.exit_code, error.error), (-1, "signal: killed"))
    eventually("it could not be killed again", lambda: run.commands.kill(handle.pid) is False)


@case
def kill_by_pid(run):
    handle = run.commands.run("sleep 600", background=True)
    equal(run.commands.kill(handle.pid), True)
    raises(CommandExitException, handle.wait)
    equal(run.commands.kill(NO_SUCH_PID), False)


@case
def stdin(run):
    handle = run.commands.run("cat; echo end", background=True, stdin=True)
    handle.send_stdin("first ü\n")
    run.commands.send_stdin(handle.pid, b"\x41\x42\n")
    handle.close_stdin()
    equal(handle.wait().stdout, "first ü\nAB\nend\n")


@case
def stdin_large(run):
    handle = run.commands.run("sha256sum", background=True, stdin=True)
    whole = hashlib.sha256()
    for i in range(16):
        piece = bytes([65 + i]) * 65536
        whole.update(piece)
        run.commands.send_stdin(handle.pid, piece)
    run.commands.close_stdin(handle.pid)
    equal(handle.wait().stdout.split()[0], whole.hexdigest())


@case
def stdin_streamed(run):
    handle = run.commands.run("sha256sum", background=True, stdin=True)
    pieces = [bytes([97 + i]) * 50_000 for i in range(20)]
    run.commands.stream_input(handle.pid, iter(pieces))
    run.commands.close_stdin(handle.pid)
    equal(handle.wait().stdout.split()[0], hashlib.sha256(b"".join(pieces)).hexdigest())


@case
def calls_on_no_process(run):
    raises(NotFoundException, lambda: run.commands.send_stdin(NO_SUCH_PID, "x"))
    raises(NotFoundException, lambda: run.commands.close_stdin(NO_SUCH_PID))
    raises(NotFoundException, lambda: run.commands.connect(NO_SUCH_PID))
    raises(NotFoundException, lambda: run.commands.stream_input(NO_SUCH_PID, iter([b"x"])))


@case
def connect(run):
    first = run.commands.run("read line; echo got $line; exit 4", background=True, stdin=True)
    first.disconnect()
    second = Collector(run.commands.connect(first.pid))
    equal(second.handle.pid, first.pid)
    run.commands.send_stdin(first.pid, "it\n")
    second.end()
    equal((second.error.exit_code, second.text), (4, "got it\n"))


@case
def connect_twice(run):
    first = run.commands.run("read line; echo $line", background=True, stdin=True)
    readers = [Collector(first), Collector(run.commands.connect(first.pid)), Collector(run.commands.connect(first.pid))]
    run.commands.send_stdin(first.pid, "for all\n")
    for reader in readers:
        reader.end()
        equal((reader.error, reader.text), (None, "for all\n"))


@case
def outlives_its_caller(run):
    handle = run.commands.run(f"sleep 0.5; echo done > {run.path('outlived')}", background=True)
    handle.disconnect()
    eventually("it had written its file", lambda: "done" in run.commands.run(f"cat {run.path('outlived')} || true").stdout)


@case
def big_output(run):
    result = run.commands.run("head -c 16777216 /dev/zero | tr '\\0' x; head -c 1048576 /dev/zero | tr '\\0' y >&2")
    equal((len(result.stdout), len(result.stderr)), (16 << 20, 1 << 20))
    equal((set(result.stdout), set(result.stderr)), ({"x"}, {"y"}))


@case
def many_lines(run):
    equal(run.commands.run("seq 1 200000").stdout, "".join(f"{i}\n" for i in range(1, 200001)))


@case
def output_not_retained(run):
    seen = []
    result = run.commands.run("echo once", retain_output=False, on_stdout=seen.append)
    equal((result.stdout, "".join(seen)), (None, "once\n"))


@case
def characters_are_not_torn(run):
    text = "aé漢𝄞" * 20000
    result = run.commands.run(f"python3 -c 'print(\"aé漢𝄞\" * 20000, end=\"\")' 2>/dev/null || printf 'aé漢𝄞%.0s' $(seq 20000)")
    equal(result.stdout, text)


@case
def many_at_once(run):
    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda i: run.commands.run(f"echo {i}; sleep 0.2").stdout, range(20)))
    equal(results, [f"{i}\n" for i in range(20)])


@case
def asynchronous_client(run):
    async def drive():
        sandbox = await AsyncSandbox.connect(run.sandbox.sandbox_id)
        results = await asyncio.gather(*(sandbox.commands.run(f"echo {i}") for i in range(10)))
        return [r.stdout for r in results]

    equal(asyncio.run(drive()), [f"{i}\n" for i in range(10)])
