"""files.*: reading, writing, and everything about entries but watching."""

import io
import os
import time
import uuid

from e2b import AuthenticationException, FileNotFoundException, FileType, InvalidArgumentException

from suite import OTHER_USER, case, equal, raises, true

BAD_USER = "nobody-by-that-name"


@case
def write_and_read_text(run):
    path = run.path("text ü.txt")
    info = run.files.write(path, "grüße\n")
    equal((info.name, info.path, info.type), ("text ü.txt", path, FileType.FILE))
    equal(run.files.read(path), "grüße\n")
    run.files.write(path, "new")
    equal(run.files.read(path), "new")


@case
def write_and_read_bytes(run):
    path, data = run.path("bytes"), os.urandom(3 << 20)
    run.files.write(path, data)
    got = run.files.read(path, format="bytes")
    true(bytes(got) == data, f"{len(got)} bytes came back, and not the same")


@case
def write_streamed(run):
    path, data = run.path("streamed"), os.urandom(1 << 20)
    run.files.write(path, io.BytesIO(data))
    true(bytes(run.files.read(path, format="bytes")) == data, "a file-like object came back differently")
    run.files.write(path, iter([data[:1000], data[1000:]]))
    true(bytes(run.files.read(path, format="bytes")) == data, "an iterable came back differently")


@case
def write_octet_stream(run):
    path = run.path("octets")
    info = run.files.write(path, b"\0\1\2", use_octet_stream=True)
    equal((info.name, info.path), ("octets", path))
    equal(bytes(run.files.read(path, format="bytes")), b"\0\1\2")


@case
def write_and_read_gzip(run):
    path, text = run.path("zipped"), "squeeze me " * 10000
    run.files.write(path, text, gzip=True)
    equal(run.files.get_info(path).size, len(text))
    true(run.files.read(path, gzip=True) == text, "the text came back differently")


@case
def read_stream(run):
    path, data = run.path("to stream"), os.urandom(5 << 20)
    run.files.write(path, data)
    with run.files.read(path, format="stream") as pieces:
        true(b"".join(pieces) == data, "the stream differs")


@case
def write_empty(run):
    run.files.write(run.path("empty"), "")
    equal(run.files.read(run.path("empty")), "")
    run.files.write(run.path("empty"), b"", use_octet_stream=True)
    equal(run.files.get_info(run.path("empty")).size, 0)


@case
def write_several(run):
    names = ["several/a", "several/deep/er/b", "several/ü c"]
    for octets in (False, True):
        entries = [{"path": run.path(name), "data": f"{name} {octets}"} for name in names]
        infos = run.files.write_files(entries, use_octet_stream=octets)
        equal([i.path for i in infos], [run.path(name) for name in names])
        equal([run.files.read(run.path(name)) for name in names], [f"{name} {octets}" for name in names])
    equal(run.files.write_files([]), [])


@case
def write_relative_to_home(run):
    name = f"e2b-{uuid.uuid4().hex}"
    home = run.commands.run("cd; pwd").stdout.strip()
    try:
        equal(run.files.write(name, "at home").path, f"{home}/{name}")
        equal(run.files.read(name), "at home")
        equal(run.files.read(f"~/{name}"), "at home")
        equal(run.commands.run(f"cat {name}").stdout, "at home")
    finally:
        run.files.remove(name)


@case
def write_as_user(run):
    path = run.path("by daemon/new/file")
    run.files.write(path, "x", user=OTHER_USER)
    for p in (path, run.path("by daemon"), run.path("by daemon/new")):
        info = run.files.get_info(p)
        equal((p, info.owner, info.group), (p, OTHER_USER, OTHER_USER))
    equal(run.files.get_info(path).mode & 0o777, 0o644)
    equal(run.files.get_info(run.path("by daemon")).mode & 0o777, 0o755)


@case
def metadata(run):
    path = run.path("described")
    info = run.files.write(path, "x", metadata={"kind": "note", "by": "me"})
    equal(info.metadata, {"kind": "note", "by": "me"})
    equal(run.files.get_info(path).metadata, {"kind": "note", "by": "me"})
    run.files.write(path, "y", use_octet_stream=True, metadata={"kind": "other"})
    equal(run.files.get_info(path).metadata, {"kind": "other"})
    run.files.write(path, "z")
    equal(run.files.get_info(path).metadata or {}, {})


@case
def read_errors(run):
    for options in ({}, {"format": "bytes"}, {"format": "stream"}, {"gzip": True}):
        raises(FileNotFoundException, lambda options=options: run.files.read(run.path("absent"), **options))
    raises(InvalidArgumentException, lambda: run.files.read(run.dir))
    raises(AuthenticationException, lambda: run.files.read(run.path("absent"), user=BAD_USER))


@case
def write_errors(run):
    raises(InvalidArgumentException, lambda: run.files.write(run.dir, "a directory"))
    raises(InvalidArgumentException, lambda: run.files.write(run.dir, b"a directory", use_octet_stream=True))
    raises(AuthenticationException, lambda: run.files.write(run.path("x"), "x", user=BAD_USER))


@case
def list_directory(run):
    for name in ("list/b", "list/a", "list/sub/deep/c"):
        run.files.write(run.path(name), name)
    entries = run.files.list(run.path("list"))
    equal(sorted((e.name, e.type, e.path) for e in entries), [
        ("a", FileType.FILE, run.path("list/a")),
        ("b", FileType.FILE, run.path("list/b")),
        ("sub", FileType.DIR, run.path("list/sub")),
    ])
    equal(sorted(e.path for e in run.files.list(run.path("list"), depth=2)), [
        run.path("list/" + n) for n in ("a", "b", "sub", "sub/deep")
    ])
    equal(sorted(e.path for e in run.files.list(run.path("list"), depth=9)), [
        run.path("list/" + n) for n in ("a", "b", "sub", "sub/deep", "sub/deep/c")
    ])
    run.files.make_dir(run.path("nothing in it"))
    equal(run.files.list(run.path("nothing in it")), [])


@case
def list_many(run):
    run.commands.run(f"mkdir {run.path('many')}; cd {run.path('many')}; seq 3000 | xargs touch")
    equal(len(run.files.list(run.path("many"))), 3000)


@case
def list_errors(run):
    run.files.write(run.path("plain"), "")
    raises(FileNotFoundException, lambda: run.files.list(run.path("absent")))
    raises(InvalidArgumentException, lambda: run.files.list(run.path("plain")))
    raises(AuthenticationException, lambda: run.files.list(run.dir, user=BAD_USER))


@case
def exists(run):
    run.files.write(run.path("there"), "")
    equal((run.files.exists(run.path("there")), run.files.exists(run.dir)), (True, True))
    equal((run.files.exists(run.path("absent")), run.files.exists(run.path("there/below"))), (False, False))


@case
def info(run):
    path = run.path("info")
    run.files.write(path, "12345", user="root")
    run.commands.run(f"chmod 640 {path}", user="root")
    i = run.files.get_info(path)
    equal((i.name, i.path, i.type, i.size), ("info", path, FileType.FILE, 5))
    equal((i.mode & 0o777, i.permissions, i.owner, i.group), (0o640, "-rw-r-----", "root", "root"))
    true(abs(i.modified_time.timestamp() - time.time()) < 3600, f"modified {i.modified_time}")
    equal((i.symlink_target, run.files.get_info(run.dir).type), (None, FileType.DIR))
    raises(FileNotFoundException, lambda: run.files.get_info(run.path("absent")))


@case
def symbolic_links(run):
    run.files.write(run.path("links/aim"), "aim")
    run.commands.run(f"cd {run.path('links')} && ln -s aim link && ln -s {run.dir} folder && ln -s nowhere broken")
    found = {e.name: e for e in run.files.list(run.path("links"))}
    equal(sorted(found), ["aim", "broken", "folder", "link"])
    equal([found[n].type for n in ("link", "folder", "broken")], [FileType.SYMLINK] * 3)
    equal(found["aim"].type, FileType.FILE)
    equal(found["link"].symlink_target, run.path("links/aim"))
    equal(found["folder"].symlink_target, run.dir)
    equal(run.files.read(run.path("links/link")), "aim")
    run.files.remove(run.path("links/folder"))
    equal(run.files.exists(run.path("links/aim")), True)


@case
def make_directory(run):
    equal(run.files.make_dir(run.path("made/with/parents")), True)
    equal(run.files.make_dir(run.path("made/with/parents")), False)
    equal(run.files.get_info(run.path("made/with")).type, FileType.DIR)
    run.files.write(run.path("made/file"), "")
    raises(InvalidArgumentException, lambda: run.files.make_dir(run.path("made/file")))
    raises(AuthenticationException, lambda: run.files.make_dir(run.path("by nobody"), user=BAD_USER))


@case
def rename(run):
    run.files.write(run.path("old/f"), "content")
    moved = run.files.rename(run.path("old/f"), run.path("new/place/g"))
    equal((moved.name, moved.path, moved.type), ("g", run.path("new/place/g"), FileType.FILE))
    equal((run.files.exists(run.path("old/f")), run.files.read(run.path("new/place/g"))), (False, "content"))
    run.files.rename(run.path("new"), run.path("newer"))
    equal(run.files.read(run.path("newer/place/g")), "content")
    raises(FileNotFoundException, lambda: run.files.rename(run.path("absent"), run.path("other")))


@case
def remove(run):
    run.files.write(run.path("gone/deep/f"), "")
    run.files.remove(run.path("gone"))
    equal(run.files.exists(run.path("gone")), False)
    run.files.remove(run.path("gone"))


@case
def large_file(run):
    path, piece = run.path("large"), os.urandom(1 << 20)
    run.files.write(path, (piece for _ in range(64)))
    equal(run.files.get_info(path).size, 64 << 20)
    with run.files.read(path, format="stream") as pieces:
        equal(sum(len(p) for p in pieces), 64 << 20)
    run.files.remove(path)
