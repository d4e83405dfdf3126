#!/usr/bin/env python3
"""The Python kernel of a code interpreter context: runs cells and keeps their variables.

It speaks the protocol of docs/design/context-protocol.md, version 2: requests as JSON lines on the standard
input it is started with, events as JSON lines on the standard output. Its guarantees:

- Nothing but events reaches the protocol's stream. Its descriptors are moved away and closed in children; what
  anything writes to descriptors 1 and 2 comes back through pipes as stdout and stderr events.
- All that a cell wrote before it ended is sent before its end event, and before the results that follow it. What
  threads and children write later is sent too, under the id of the latest request.
- An interrupt ends its request and nothing else, whether that runs or waits. It comes as SIGINT, which raises
  KeyboardInterrupt only while a frame of `user_code` is on the stack, and never while an event is being written.
- A request that cannot be understood costs that request. Lines, events and results are bounded.

It is no fence: cells run in this process and may do with it what they like. Whoever reads the events must take them
for what a stranger wrote. Python 3.9 or newer; the standard library only; costly imports wait until they are needed.
"""
import builtins
import os
import signal
import sys
import threading
import types
import warnings

from kernel_result import PyplotHook, bundle, display, show, show_figures
from kernel_requests import REQUESTS
from kernel_wire import STREAMS, WIRE, flush, format_traceback, on_interrupt, send_error, user_code

PROTOCOL = 2
# The module that cells run in. This one, which was __main__, is kept alive: its functions live in it.
KERNEL = sys.modules["__main__"]
MODULE = types.ModuleType("__main__")
USER = vars(MODULE)


# --- magics ------------------------------------------------------------------------------------------------

def shell(command):
    import subprocess
    flush()
    bash = "/bin/bash" if os.path.exists("/bin/bash") else None
    USER["_exit_code"] = subprocess.call(command, shell=True, executable=bash)
    find_packages(True)
    return USER["_exit_code"]


def find_packages(fresh=False):
    """Makes packages importable that were installed while the kernel ran."""
    import site
    user = site.getusersitepackages() if site.ENABLE_USER_SITE else None
    if user and user not in sys.path and os.path.isdir(user):
        site.addsitedir(user)
        fresh = True
    if fresh:
        import importlib
        importlib.invalidate_caches()


def magic_pip(rest):
    import shlex
    if shell(f"{shlex.quote(sys.executable)} -m pip {rest}"):
        raise RuntimeError(f"pip ended with status {USER['_exit_code']}")


def magic_cd(rest):
    os.chdir(os.path.expanduser(rest.strip("'\"") or "~"))
    print(os.getcwd())


def magic_env(rest):
    name, given, value = rest.partition("=")
    if given:
        os.environ[name.strip()] = value.strip()
    elif rest:
        print(os.environ.get(rest, ""))
    else:
        for name in sorted(os.environ):
            print(f"{name}={os.environ[name]}")


# %matplotlib chooses how figures are shown: there is one way here.
MAGICS = {"!": shell, "pip": magic_pip, "cd": magic_cd, "env": magic_env, "matplotlib": lambda rest: None}


def run_magic(name, rest):
    if name not in MAGICS:
        raise NameError(f"there is no magic %{name}: there are %pip, %cd, %env, %matplotlib and !command")
    MAGICS[name](rest)


def translate(line):
    """The call that a line `!command` or `%name rest` stands for, or None."""
    text = line.lstrip()
    indent, text = line[:len(line) - len(text)], text.rstrip()
    if text.startswith("!"):
        return f"{indent}__wrenn_magic__('!', {text[1:]!r})"
    name, _, rest = text[1:].partition(" ")
    if text.startswith("%") and name.isidentifier():
        return f"{indent}__wrenn_magic__({name!r}, {rest.strip()!r})"
    return None


# --- cells -------------------------------------------------------------------------------------------------

class Cells:
    """Compiles and runs cells in one namespace, the user's __main__."""

    def __init__(self):
        self.count = 0
        self.future = 0
        self.value = None
        self.loop = None

    def parse(self, code, filename):
        """Parses a cell. A line is a magic where Python sees no sense in it: never inside a string."""
        import ast
        lines = code.split("\n")
        while True:
            try:
                return compile("\n".join(lines), filename, "exec", ast.PyCF_ONLY_AST | self.flags(), dont_inherit=True)
            except SyntaxError as error:
                at = (error.lineno or 0) - 1
                call = translate(lines[at]) if 0 <= at < len(lines) else None
                if call is None:
                    raise
                lines[at] = call

    def flags(self):
        return self.future | 0x2000  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    def begin(self, code):
        """Runs a cell, unless it was interrupted before an interrupt could reach it."""
        if REQUESTS.interrupted:
            raise KeyboardInterrupt
        self.run(code)

    def run(self, code):
        """Runs a cell, and shows its value and its figures."""
        with WIRE:  # An import that is broken off leaves a broken module.
            import ast
            import linecache
        filename = f"<cell {self.count}>"
        linecache.cache[filename] = (len(code), None, [line + "\n" for line in code.split("\n")], filename)
        body = self.parse(code, filename).body
        quiet = code.rstrip().endswith(";")
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        try:
            if body:
                self.evaluate(ast.Module(body, []), filename, "exec")
            if last is not None:
                value = self.evaluate(ast.Expression(last.value), filename, "eval")
                if value is not None and not quiet:
                    self.show_value(value)
        finally:
            show_figures()

    def show_value(self, value):
        show(bundle(value), main=True)
        # A name `_` that the user's code took for itself stays the user's.
        if USER.get("_", self.value) is self.value:
            USER["_"] = self.value = value

    def evaluate(self, tree, filename, mode):
        import __future__
        code = compile(tree, filename, mode, self.flags(), dont_inherit=True)
        for name in __future__.all_feature_names:
            self.future |= code.co_flags & getattr(__future__, name).compiler_flag
        value = eval(code, USER)
        if code.co_flags & 0x80:  # inspect.CO_COROUTINE: it awaits
            value = self.wait(value)
        return value

    def wait(self, coroutine):
        """Runs a coroutine in the kernel's loop; what it started goes on when the next cell awaits."""
        with WIRE:
            import asyncio
        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        task = self.loop.create_task(coroutine)
        try:
            return self.loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                self.loop.run_until_complete(asyncio.wait([task]))
            raise

    def execute(self, request):
        """Answers a request to execute; returns how the cell ended."""
        self.count += 1
        WIRE.restore()
        find_packages()
        before = {name: os.environ.get(name) for name in request["env"]}
        os.environ.update(request["env"])
        try:
            status = self.status_of(request["code"])
        finally:
            for name, value in before.items():
                if os.environ.get(name) != request["env"][name]:
                    continue  # The cell changed it: that stays.
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        flush()
        if WIRE.forked:
            os._exit(0 if status == "ok" else 1)  # A child that the cell forked has come to the cell's end.
        return status

    def status_of(self, code):
        try:
            user_code(self.begin, code)
            return "ok"
        except SystemExit as error:
            if error.code in (None, 0):
                return "ok"
            report = error
        except BaseException as error:
            report = error
        if WIRE.forked:
            sys.stderr.write("\n".join(format_traceback(report)) + "\n")
        flush()
        send_error(report)
        return "interrupted" if isinstance(report, KeyboardInterrupt) else "error"


# --- requests ----------------------------------------------------------------------------------------------

def serve(cells):
    """Answers requests in their order until their stream ends."""
    while True:
        taken = REQUESTS.next()
        if taken is None:
            return
        request_id, request, problem = taken
        with WIRE:
            WIRE.read_pipes()
            WIRE.request_id = request_id
        status = "error"
        if request is None:
            WIRE.send("error", name="BadRequest", value=problem, traceback=[])
        else:
            WIRE.send("begin")
            status = cells.execute(request)
        REQUESTS.done()
        signal.signal(signal.SIGINT, on_interrupt)
        WIRE.end(status, cells.count)


def cell_input(prompt=""):
    """input(), which cannot be had."""
    raise EOFError("input() is not available: a context has no standard input")


def prepare():
    """Makes this process look to cells like an interactive Python."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = STREAMS
    sys.argv = [""]
    sys.path[0] = ""
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.meta_path.insert(0, PyplotHook)
    builtins.display, builtins.input, builtins.__wrenn_magic__ = display, cell_input, run_magic
    USER["__builtins__"] = builtins
    sys.modules["__main__"] = MODULE
    # The thread that Python 3.12 warns of holds no lock that a child needs.
    warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
    os.register_at_fork(before=flush, after_in_child=WIRE.in_child)


def main():
    signal.signal(signal.SIGINT, on_interrupt)
    prepare()
    threading.Thread(target=WIRE.pump, daemon=True).start()
    threading.Thread(target=REQUESTS.read, daemon=True).start()
    WIRE.send("ready", protocol=PROTOCOL, language="python", version=".".join(map(str, sys.version_info[:3])))
    serve(Cells())
    import atexit
    user_code(atexit._run_exitfuncs)
    flush()
    WIRE.send("exit")
    os._exit(0)


if __name__ == "__main__":
    main()
