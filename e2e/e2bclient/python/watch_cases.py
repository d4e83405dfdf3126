"""files.watch_dir: polled by the synchronous client, streamed to the asynchronous one."""

import asyncio

from e2b import AsyncSandbox, FileNotFoundException, FilesystemEventType, InvalidArgumentException, SandboxException

from suite import PATIENCE, case, equal, eventually, raises, true

CREATE, WRITE = FilesystemEventType.CREATE, FilesystemEventType.WRITE
REMOVE, RENAME, CHMOD = FilesystemEventType.REMOVE, FilesystemEventType.RENAME, FilesystemEventType.CHMOD


class Watched:
    """The events of a watcher so far."""

    def __init__(self, handle):
        self.handle, self.events = handle, []

    def until(self, name, kind):
        eventually(f"{kind.value} of {name!r} was reported; seen: {self.seen()}", lambda: self._find(name, kind))
        return self._find(name, kind)[0]

    def _find(self, name, kind):
        self.events += self.handle.get_new_events()
        return [e for e in self.events if e.name == name and e.type == kind]

    def seen(self):
        return [(e.name, e.type.value) for e in self.events]


def folder(run, name):
    run.files.make_dir(run.path(name))
    return run.path(name)


@case
def watch_each_kind(run):
    path = folder(run, "watched")
    watched = Watched(run.files.watch_dir(path))
    run.files.write(f"{path}/f", "content")
    watched.until("f", CREATE)
    watched.until("f", WRITE)
    run.commands.run(f"chmod 600 {path}/f")
    watched.until("f", CHMOD)
    run.files.rename(f"{path}/f", f"{path}/g")
    watched.until("f", RENAME)
    watched.until("g", CREATE)
    run.files.remove(f"{path}/g")
    watched.until("g", REMOVE)
    watched.handle.stop()


@case
def watch_is_not_recursive(run):
    path = folder(run, "flat")
    run.files.make_dir(f"{path}/sub")
    watched = Watched(run.files.watch_dir(path))
    run.files.write(f"{path}/sub/inner", "x")
    run.files.write(f"{path}/outer", "x")
    watched.until("outer", WRITE)
    true(not [e for e in watched.events if "inner" in e.name], f"seen: {watched.seen()}")
    watched.handle.stop()


@case
def watch_recursively(run):
    path = folder(run, "tree")
    run.files.make_dir(f"{path}/sub")
    watched = Watched(run.files.watch_dir(path, recursive=True))
    run.files.write(f"{path}/sub/inner", "x")
    watched.until("sub/inner", WRITE)
    run.files.make_dir(f"{path}/later")
    watched.until("later", CREATE)
    run.files.write(f"{path}/later/f", "x")
    watched.until("later/f", WRITE)
    watched.handle.stop()


@case
def watch_with_entries(run):
    path = folder(run, "described events")
    watched = Watched(run.files.watch_dir(path, include_entry=True))
    run.files.write(f"{path}/f", "12345")
    entry = watched.until("f", WRITE).entry
    equal((entry.name, entry.path), ("f", f"{path}/f"))
    run.files.remove(f"{path}/f")
    equal(watched.until("f", REMOVE).entry, None)
    watched.handle.stop()


@case
def watch_stopped(run):
    handle = run.files.watch_dir(folder(run, "stopped"))
    handle.stop()
    raises(SandboxException, handle.get_new_events)


@case
def watch_errors(run):
    run.files.write(run.path("a file"), "")
    raises(FileNotFoundException, lambda: run.files.watch_dir(run.path("absent")))
    raises(InvalidArgumentException, lambda: run.files.watch_dir(run.path("a file")))


@case
def watch_streamed(run):
    path = folder(run, "streamed events")

    async def drive():
        sandbox = await AsyncSandbox.connect(run.sandbox.sandbox_id)
        seen, ended = asyncio.Queue(), asyncio.Event()
        handle = await sandbox.files.watch_dir(path, seen.put_nowait, on_exit=lambda _: ended.set(), recursive=True)
        await sandbox.files.write(f"{path}/new/f", "x")
        while (event := await asyncio.wait_for(seen.get(), PATIENCE)).name != "new/f":
            pass
        await handle.stop()
        await asyncio.wait_for(ended.wait(), PATIENCE)
        return event.type

    true(asyncio.run(drive()) in (CREATE, WRITE), "the first event of a new file is neither create nor write")


@case
def watch_streamed_errors(run):
    async def drive():
        sandbox = await AsyncSandbox.connect(run.sandbox.sandbox_id)
        try:
            await sandbox.files.watch_dir(run.path("absent"), lambda _: None)
        except Exception as error:
            return type(error)

    equal(asyncio.run(drive()), FileNotFoundException)
