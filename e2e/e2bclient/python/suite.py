"""What the rest of the suite is made of: cases, and what they share.

A case is a function that takes a Run. The runner prints one JSON line a case and a last one
that says how many there were, from which the Go test makes subtests.
"""

import json
import os
import sys
import threading
import time
import traceback
import uuid

from e2b import Sandbox

PATIENCE = 30  # seconds to wait for what must happen: VMs are emulated
OTHER_USER = "daemon"  # an account of every Debian that is neither root nor the default

cases = []


def case(function):
    """Adds a function to the suite, under its own name."""
    cases.append(function)
    return function


class Run:
    """A sandbox and a folder of its own in it."""

    def __init__(self):
        self.debug = os.environ.get("E2B_DEBUG") == "true"
        self.sandbox = Sandbox.create(os.environ.get("WRENN_TEST_TEMPLATE", "base"))
        self.commands, self.files, self.pty = self.sandbox.commands, self.sandbox.files, self.sandbox.pty
        self.dir = f"/tmp/e2b-python-{uuid.uuid4().hex}"

    def begin(self):
        # By a command, so that the cases about commands do not need the filesystem service.
        self.commands.run(f"mkdir -m 777 {self.dir}")

    def end(self):
        self.commands.run(f"rm -rf {self.dir}", user="root")

    def path(self, name):
        return f"{self.dir}/{name}"


def equal(got, want):
    if got != want:
        raise AssertionError(f"got {short(got)}, want {short(want)}")


def true(condition, what):
    if not condition:
        raise AssertionError(what)


def short(value):
    text = repr(value)
    return text if len(text) < 300 else f"{text[:150]}…{text[-100:]} ({len(text)} characters)"


def raises(kind, function):
    """Calls function, which must raise exactly kind, and returns what it raised."""
    try:
        value = function()
    except Exception as error:  # whatever it is, it is compared
        if type(error) is not kind:
            raise AssertionError(f"raised {type(error).__name__}({error}), want {kind.__name__}") from error
        return error
    raise AssertionError(f"returned {short(value)}, want {kind.__name__}")


def eventually(what, check):
    """Waits until check returns something true, and returns that."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = check()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited in vain until {what}")


class Collector:
    """Reads a command handle in a thread of its own."""

    def __init__(self, handle):
        self.text, self.error, self.result = "", None, None
        self.handle = handle
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            self.result = self.handle.wait(
                on_stdout=self._add, on_pty=lambda data: self._add(bytes(data).decode(errors="replace"))
            )
        except Exception as error:
            self.error = error

    def _add(self, text):
        self.text += text

    def until(self, wanted):
        try:
            eventually(f"{wanted!r} was in the output", lambda: wanted in self.text)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {short(self.text)}, ended with {self.error!r}") from None

    def end(self):
        self.thread.join(PATIENCE)
        true(not self.thread.is_alive(), f"the command did not end; output {short(self.text)}")


def report(name, function, run):
    begin = time.monotonic()
    line = {"case": name, "ok": True}
    try:
        function(run)
    except Exception as error:
        line.update(ok=False, error=f"{type(error).__name__}: {error}", trace=traceback.format_exc(limit=-6))
    line["seconds"] = round(time.monotonic() - begin, 3)
    print(json.dumps(line), flush=True)


def main():
    only = sys.argv[1:]
    run = Run()
    run.begin()
    count = 0
    for function in cases:
        if not only or function.__name__ in only:
            report(function.__name__, function, run)
            count += 1
    run.end()
    print(json.dumps({"done": count}), flush=True)
