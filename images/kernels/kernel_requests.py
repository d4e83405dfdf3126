"""The requests of a kernel: what waits, what runs, and what interrupts them. See kernel.py for the guarantees."""
import collections
import json
import os
import signal
import threading

from kernel_wire import MAX_REQUEST, WIRE

MAX_WAITING = 1000          # requests that wait for the one that runs
MAX_WAITING_SIZE = 64 << 20  # bytes of their lines


class Requests:
    """Reads requests in a thread of its own, so that an interrupt is heeded whatever runs."""

    def __init__(self):
        self.changed = threading.Condition()
        # Below: guarded by its lock.
        self.waiting = collections.deque()  # of (id, request, problem, size)
        self.size = 0
        self.ended = False
        self.running = None  # the id of the request that runs
        self.interrupted = False  # whether that one was interrupted

    def read(self):
        """Takes requests until their stream ends."""
        while True:
            line = WIRE.read_line()
            if line is None:
                break
            if line.isspace():
                continue
            request_id, request, problem = parse_request(line)
            with self.changed:
                if problem is None and request["op"] == "interrupt":
                    self.interrupt(request_id)
                elif len(self.waiting) == MAX_WAITING or self.size + len(line) > MAX_WAITING_SIZE:
                    WIRE.refuse(request_id, "BadRequest", "too many requests wait already", "error")
                else:
                    self.waiting.append((request_id, request, problem, len(line)))
                    self.size += len(line)
                    self.changed.notify()
        with self.changed:
            self.ended = True
            self.changed.notify()

    def interrupt(self, request_id):
        """Interrupts the request with that id, whether it runs or waits; the one that runs for None."""
        if self.running is not None and request_id in (None, self.running):
            self.interrupted = True
            os.killpg(os.getpgrp(), signal.SIGINT)  # This process and the cell's children.
            return
        for item in self.waiting:
            if item[0] == request_id and item[1]:
                self.waiting.remove(item)
                self.size -= item[3]
                WIRE.refuse(request_id, "KeyboardInterrupt", "", "interrupted")
                return

    def next(self):
        """Waits for the next request, which then runs; None at the end. Returns its id, itself, and what is wrong with it."""
        with self.changed:
            while not self.waiting:
                if self.ended:
                    return None
                self.changed.wait()
            request_id, request, problem, size = self.waiting.popleft()
            self.size -= size
            self.running, self.interrupted = request_id, False
            return request_id, request, problem

    def done(self):
        """Says that what ran has ended: no interrupt is for it from now on."""
        with self.changed:
            self.running = None


def parse_request(line):
    """Returns the id that could be read, the request, and what is wrong with it."""
    if not line:
        return "", None, f"a request is one line of at most {MAX_REQUEST} bytes"
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        return "", None, f"not JSON: {error}"
    if isinstance(request, dict) and request.get("op") == "interrupt" and isinstance(request.get("id"), (str, type(None))):
        return request.get("id"), request, None
    if not isinstance(request, dict) or not isinstance(request.get("id"), str) or len(request["id"]) > 256:
        return "", None, "a request is an object with an id, a string of at most 256 characters"
    if request.get("op") != "execute":
        return request["id"], None, "op must be execute or interrupt"
    if not isinstance(request.get("code"), str):
        return request["id"], None, "code must be a string"
    request["env"] = request.get("env") or {}
    if not isinstance(request["env"], dict) or not all(is_variable(*item) for item in request["env"].items()):
        return request["id"], None, "env must be an object of strings"
    return request["id"], request, None


def is_variable(name, value):
    return bool(name) and isinstance(value, str) and "=" not in name and "\0" not in name + value


REQUESTS = Requests()
