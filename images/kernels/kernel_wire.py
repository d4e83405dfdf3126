"""The protocol's stream, the pipes behind descriptors 1 and 2, and SIGINT: see kernel.py for the guarantees.

Importing this takes the process's descriptors 0, 1 and 2. There is one wire in a process: WIRE.
"""
import codecs
import fcntl
import io
import json
import os
import select
import signal
import sys
import termios
import threading
import time
import types

MAX_MESSAGE = 64 << 10      # characters of an error's value
MAX_TRACEBACK = 200         # lines
MAX_LINE = 4 << 10          # characters of a line of a traceback
MAX_REQUEST = 16 << 20      # bytes of a request's line
READ = 64 << 10             # bytes: the most that one stdout or stderr event carries
GATHER = 0.005              # seconds that output is gathered for before it is sent
FIRST_FD = 200              # the kernel's own descriptors are above what programs count on

MAIN_THREAD = threading.main_thread()
HERE = os.path.join(os.path.dirname(os.path.realpath(__file__)), "kernel")


def move(fd):
    """Duplicates a descriptor to where it is out of the way, closed on exec."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def user_code(function, *args):
    """Calls what belongs to the user. Only below this frame does SIGINT raise KeyboardInterrupt."""
    return function(*args)


class Wire:
    """The protocol's stream and the pipes behind descriptors 1 and 2. Its lock orders all that is sent."""

    def __init__(self):
        self.requests, self.events = move(0), move(1)
        os.set_blocking(self.requests, True)
        self.lock = threading.RLock()
        # Below: guarded by the lock.
        self.request_id = ""
        self.count = 0  # of cells, at the latest end
        # Below: the main thread's alone.
        self.masked = 0
        self.interrupted = False
        self.forked = False
        # Below: that thread's alone that reads requests.
        self.buffer = bytearray()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        self.pipes = [self.open_pipe(1, "stdout"), self.open_pipe(2, "stderr")]

    def open_pipe(self, fd, name):
        reader, writer = os.pipe()
        pipe = types.SimpleNamespace(
            fd=fd, name=name, reader=move(reader), writer=move(writer),
            decoder=codecs.getincrementaldecoder("utf-8")("replace"))
        os.close(reader)
        os.close(writer)
        try:
            fcntl.fcntl(pipe.writer, 1031, 1 << 20)  # F_SETPIPE_SZ, fcntl(2); named since Python 3.10
        except OSError:
            pass  # The user's share of pipe memory is used up: the usual 64 KiB do.
        os.dup2(pipe.writer, fd)
        return pipe

    def restore(self):
        """Makes descriptors 1 and 2 and the streams what they should be, whatever the last cell did to them."""
        for at, pipe in enumerate(self.pipes):
            os.dup2(pipe.writer, pipe.fd)
            if STREAMS[at].closed:
                STREAMS[at] = Stream(pipe.fd)
            if getattr(getattr(sys, pipe.name), "closed", False):
                setattr(sys, pipe.name, STREAMS[at])

    def send(self, event, **fields):
        """Sends an event after all output that was written before it."""
        if self.forked:
            return
        fields = {"id": fields.pop("id", None), "type": event, **fields}
        with self:
            self.read_pipes()
            if fields["id"] is None:
                fields["id"] = self.request_id
            self.write(fields)

    def write(self, event):
        # A lone surrogate becomes \udcxx, which JSON reads as it was.
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        try:
            write_all(self.events, line + b"\n")
        except OSError:
            os._exit(1)  # Nobody listens any more, and nobody ever will.

    def __enter__(self):
        """Takes the lock; the main thread is not interrupted while it holds it."""
        if threading.current_thread() is MAIN_THREAD:
            self.masked += 1
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()
        if threading.current_thread() is MAIN_THREAD:
            self.masked -= 1
            if self.interrupted and not self.masked:
                self.interrupted = False
                on_interrupt(signal.SIGINT, sys._getframe(1))

    def read_pipes(self):
        """Sends what is in the pipes now. Endless writers do not hold it up: it asks for the amount once."""
        for pipe in self.pipes:
            left = int.from_bytes(fcntl.ioctl(pipe.reader, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)
            while left > 0:
                data = os.read(pipe.reader, min(left, READ))
                left -= len(data)
                self.send_text(pipe, data)

    def send_text(self, pipe, data, final=False):
        text = pipe.decoder.decode(data, final)
        if text:
            self.write({"id": self.request_id, "type": pipe.name, "text": text})

    def end(self, status, count):
        """Ends the request: sends what is left of its output, half characters too."""
        with self:
            self.count = count
            self.read_pipes()
            for pipe in self.pipes:
                self.send_text(pipe, b"", final=True)
            self.write({"id": self.request_id, "type": "end", "status": status, "execution_count": count})

    def refuse(self, request_id, name, value, status):
        """Answers a request that does not run."""
        with self:
            self.write({"id": request_id, "type": "error", "name": name, "value": value, "traceback": []})
            self.write({"id": request_id, "type": "end", "status": status, "execution_count": self.count})

    def pump(self):
        """Sends output as it comes, from a thread of its own."""
        poll = select.poll()
        for pipe in self.pipes:
            poll.register(pipe.reader, select.POLLIN)
        while True:
            poll.poll()
            time.sleep(GATHER)
            with self:
                self.read_pipes()

    def read_line(self):
        """Returns the next line of the requests; "" for one that is too long, None at the end."""
        searched, too_long = 0, False
        while True:
            at = self.buffer.find(b"\n", searched)
            if at >= 0:
                line = bytes(self.buffer[:at])
                del self.buffer[:at + 1]
                return b"" if too_long or at > MAX_REQUEST else line or b" "
            if len(self.buffer) > MAX_REQUEST:
                too_long = True
                self.buffer.clear()
            searched = len(self.buffer)
            data = os.read(self.requests, READ)
            if not data:
                return None
            self.buffer += data

    def in_child(self):
        """A fork has no part in the protocol: its output comes through the pipes, its results are nobody's."""
        self.forked = True
        self.lock = threading.RLock()  # A thread that is not here may have held it.
        for fd in (self.requests, self.events):
            os.close(fd)


class Stream(io.TextIOWrapper):
    """sys.stdout or sys.stderr: text that goes to a descriptor, in order with what the other one wrote."""

    latest = None

    def __init__(self, fd):
        raw = io.FileIO(fd, "w", closefd=False)
        super().__init__(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)

    def write(self, text):
        if Stream.latest is not self:
            if Stream.latest is not None and not Stream.latest.closed:
                Stream.latest.flush()
            Stream.latest = self
            if not WIRE.forked:
                with WIRE:
                    WIRE.read_pipes()
        return super().write(text)


def flush():
    """Hands on what Python and C still hold back. What user code has put in place of a stream may well fail."""
    for stream in (sys.stdout, sys.stderr, STREAMS[0], STREAMS[1]):
        try:
            stream.flush()
        except Exception:
            pass
    if "ctypes" in sys.modules:
        ctypes = sys.modules["ctypes"]
        ctypes.CDLL(None).fflush(None)


def on_interrupt(_signal, frame):
    """Handles SIGINT: raises KeyboardInterrupt in the user's code, or does nothing."""
    if WIRE.masked:
        WIRE.interrupted = True
        return
    while frame is not None:
        if frame.f_code is user_code.__code__:
            raise KeyboardInterrupt
        frame = frame.f_back


def exception_text(error):
    try:
        text = str(error)
    except BaseException:
        text = "<str() of the exception failed>"
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}… (cut: {len(text)} characters)"


def is_kernel(frame):
    return os.path.realpath(frame.filename).startswith(HERE)


def hide_kernel(report, seen):
    """Takes the kernel's frames, and what led to the cell, out of a traceback and of those it was caused by."""
    if report is None or id(report) in seen:
        return
    seen.add(id(report))
    frames = list(report.stack)
    cells = [at for at, frame in enumerate(frames) if frame.filename.startswith("<cell ")]
    start = cells[0] if cells else len(frames) if any(map(is_kernel, frames)) else 0
    report.stack[:] = [frame for frame in frames[start:] if not is_kernel(frame)]
    for other in (report.__cause__, report.__context__, *(getattr(report, "exceptions", None) or ())):
        hide_kernel(other, seen)


def format_traceback(error):
    import traceback
    report = traceback.TracebackException(type(error), error, error.__traceback__)
    hide_kernel(report, set())
    lines = "".join(report.format()).rstrip("\n").split("\n")
    if len(lines) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        lines = lines[:half] + [f"  … {len(lines) - 2 * half} lines left out …"] + lines[-half:]
    return [line[:MAX_LINE] for line in lines]


def send_error(error):
    WIRE.send("error", name=type(error).__name__, value=exception_text(error), traceback=format_traceback(error))


def note(text):
    """Tells the user something, on stderr."""
    STREAMS[1].write(f"[kernel] {text}\n")
    STREAMS[1].flush()


WIRE = Wire()
STREAMS = [Stream(1), Stream(2)]
