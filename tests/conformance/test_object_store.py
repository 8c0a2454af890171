"""What every binding of the object store port promises (engine.ports: ObjectStore)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from cluster.sim.objects import Bucket, SimObjects
from engine.errors import ConfigError, ObjectExists, ObjectMissing, Unavailable
from engine.net.objects import FolderStore
from engine.net.s3 import BucketName, S3Objects
from engine.objects import KEY_LENGTH_MAX, PART_LENGTH_MAX
from engine.ports import ObjectStore
from tests.support.s3 import BUCKET, S3Server


class World(Protocol):
    """One binding: the same objects as any number of processes see them."""

    folders: bool
    """Whether it is made of folders."""

    def open(self) -> ObjectStore: ...

    def outage(self) -> contextlib.AbstractContextManager[None]:
        """While it lasts nobody reaches the store."""

    def close(self) -> None: ...


class FolderWorld:
    folders = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stores: list[FolderStore] = []

    def open(self) -> ObjectStore:
        self._stores.append(FolderStore(self._folder))
        return self._stores[-1]

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The folder is not there (root may read anything, so its mode would keep nobody out)."""
        away = self._folder.with_name("away")
        self._folder.rename(away)
        self._folder.write_text("the mount point of a disk that is gone")
        try:
            yield
        finally:
            self._folder.unlink()
            away.rename(self._folder)

    def close(self) -> None:
        for store in self._stores:
            store.close()


class SimWorld:
    folders = True

    def __init__(self, _folder: Path) -> None:
        self._bucket = Bucket(random.Random(1))

    def open(self) -> ObjectStore:
        return SimObjects(self._bucket)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        self._bucket.unreachable = True
        try:
            yield
        finally:
            self._bucket.unreachable = False

    def close(self) -> None:
        """Nothing is left behind."""


class S3World:
    """Below a prefix of its own in a bucket of a server that somebody else has written."""

    folders = False

    def __init__(self, server: S3Server, prefix: str) -> None:
        self._server = server
        self._name = BucketName(BUCKET, prefix)

    def open(self) -> ObjectStore:
        return S3Objects(self._name, self._server.environ, request_s=20.0, retries=0)

    def outage(self) -> contextlib.AbstractContextManager[None]:
        return self._server.away()

    def close(self) -> None:
        """The server takes it with it."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


@pytest.fixture(params=[FolderWorld, SimWorld, S3World], ids=lambda kind: kind.__name__)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made: World
    if request.param is S3World:
        made = S3World(request.getfixturevalue("server"), f"test/{tmp_path.name}")
    else:
        made = request.param(tmp_path / "objects")
    yield made
    made.close()


@pytest.fixture
def store(world: World) -> ObjectStore:
    return world.open()


async def test_what_was_created_is_read_by_everyone(world: World, store: ObjectStore) -> None:
    await store.create("volume-1/log/0001.wal", b"redo")
    await store.create("empty", b"")
    other = world.open()
    assert await other.read("volume-1/log/0001.wal") == b"redo"
    assert await other.read("empty") == b""


@pytest.mark.parametrize("key", ["nothing", "a", "a/b/c", "a/b/c/d/e", "a/x"])
async def test_what_is_no_object_is_missing(store: ObjectStore, key: str) -> None:
    await store.create("a/b/c/d", b"x")
    with pytest.raises(ObjectMissing, match=key):
        await store.read(key)
    await store.delete(key)
    assert await store.keys() == ["a/b/c/d"]


async def test_object_never_changes(world: World, store: ObjectStore) -> None:
    await store.create("a/b", b"first")
    for other in (store, world.open()):
        with pytest.raises(ObjectExists, match="a/b"):
            await other.create("a/b", b"second")
    assert await store.read("a/b") == b"first"
    assert await store.keys() == ["a/b"]


async def test_of_many_who_create_one_object_one_succeeds(world: World) -> None:
    stores = [world.open() for _ in range(6)]
    for turn in range(10):
        made = await asyncio.gather(
            *(s.create(f"turn/{turn}", bytes([n]) * 5000) for n, s in enumerate(stores)),
            return_exceptions=True,
        )
        winners = [n for n, result in enumerate(made) if result is None]
        assert len(winners) == 1
        assert all(isinstance(r, ObjectExists) for r in made if r is not None)
        assert await stores[0].read(f"turn/{turn}") == bytes(winners) * 5000


async def test_keys_are_sorted_and_begin_with_the_prefix(store: ObjectStore) -> None:
    every = ["a", "b/1", "b/10", "b/2", "b.x", "bb/c/d", "c-1", "c/z"]
    for key in reversed(every):
        await store.create(key, b"")
    assert await store.keys() == sorted(every)
    for prefix in ("b", "b/", "b/1", "bb/c/d", "c", "none", "none/such", "a/below"):
        assert await store.keys(prefix) == sorted(k for k in every if k.startswith(prefix)), prefix


async def test_keys_are_all_there_however_many(store: ObjectStore) -> None:
    """More than a bucket is told of at a time, and others in front and behind."""
    every = [f"{folder}/{n:04}" for folder in ("a", "b", "b.2", "c") for n in range(60)]
    for some in range(0, len(every), 50):
        await asyncio.gather(*(store.create(key, b"") for key in every[some : some + 50]))
    for prefix in ("", "b", "b/", "b/0", "b/004", "c/"):
        assert await store.keys(prefix) == sorted(k for k in every if k.startswith(prefix)), prefix


async def test_deleted_is_gone_and_may_be_created_again(world: World, store: ObjectStore) -> None:
    await store.create("a/b", b"first")
    await store.delete("a/b")
    await store.delete("a/b")
    assert await world.open().keys() == []
    with pytest.raises(ObjectMissing):
        await store.read("a/b")
    await store.create("a/b", b"second")
    assert await store.read("a/b") == b"second"


async def test_object_is_no_folder_and_a_folder_no_object(world: World, store: ObjectStore) -> None:
    if not world.folders:
        pytest.skip("a bucket has no folders")
    await store.create("a/b/c", b"x")
    await store.create("d", b"x")
    for key in ("a", "a/b", "d/e", "d/e/f", "a/b/c/d"):
        with pytest.raises(ConfigError):
            await store.create(key, b"y")
    assert await store.keys() == ["a/b/c", "d"]


BAD_KEYS = [
    *(
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        ".new-1",
        "a/.b",
        "a b",
        "ä",
        "a\\b",
        "a\n",
    ),
    "x" * (PART_LENGTH_MAX + 1),
    "/".join(["x" * 100] * (KEY_LENGTH_MAX // 100 + 1)),
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key)[:20])
async def test_key_that_not_every_store_could_keep_is_refused(store: ObjectStore, key: str) -> None:
    for call in (store.create(key, b""), store.read(key), store.delete(key)):
        with pytest.raises(ConfigError, match="key"):
            await call
    assert await store.keys() == []


async def test_longest_key(store: ObjectStore) -> None:
    key = "/".join(["x" * PART_LENGTH_MAX, "y" * PART_LENGTH_MAX, "z" * 100])
    await store.create(key, b"1")
    assert await store.keys("x") == [key]


async def test_outage_is_said_and_nothing_is_lost(world: World, store: ObjectStore) -> None:
    await store.create("a", b"1")
    with world.outage():
        for call in (store.create("b", b"2"), store.read("a"), store.keys(), store.delete("a")):
            with pytest.raises(Unavailable):
                await call
    kept = await store.keys()
    assert set(kept) <= {"a", "b"}  # whether a change took effect is not known, but it is whole
    for key in kept:
        assert await store.read(key) == {"a": b"1", "b": b"2"}[key]


async def test_folders_that_deleted_objects_left_are_not_in_the_way(store: ObjectStore) -> None:
    await store.create("a/b/c", b"x")
    await store.delete("a/b/c")
    await store.create("a", b"y")
    assert await store.keys() == ["a"]


async def test_both_bindings_answer_alike(tmp_path: Path) -> None:
    """Random calls, one after the other; the simulated store is the model of the other."""
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    folder, bucket = FolderWorld(tmp_path / "objects"), SimWorld(tmp_path)
    stores = (folder.open(), bucket.open())
    parts = ("a", "b", "c")
    for number in range(300):
        key = "/".join(rng.choice(parts) for _ in range(rng.randint(1, 3)))
        call = rng.choice(("create", "create", "read", "delete", "keys"))
        answers = []
        for store in stores:
            arguments = (key, bytes([number % 256])) if call == "create" else (key,)
            try:
                answers.append(repr(await getattr(store, call)(*arguments)))
            except (ObjectExists, ObjectMissing, ConfigError) as error:
                answers.append(type(error).__name__)
        assert answers[0] == answers[1], f"seed {seed}, call {number}: {call} {key}"
    folder.close()


# -- the folder alone: processes that die


WRITER = """
import asyncio, sys
from pathlib import Path
from engine.net.objects import FolderStore

async def main():
    store = FolderStore(Path(sys.argv[1]))
    for n in range(1_000_000):
        await store.create(f"n/{n}", bytes([n % 256]) * 200_000)
        print(n, flush=True)

asyncio.run(main())
"""


async def test_killed_while_creating_leaves_whole_objects_only(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    for _ in range(3):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITER, str(folder)), stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        told = [int(await child.stdout.readline()) for _ in range(5)]
        child.kill()
        told += [int(line) for line in (await child.stdout.read()).split(b"\n")[:-1]]
        await child.wait()
        store = FolderStore(folder)
        keys = await store.keys("n/")
        assert {f"n/{n}" for n in told} <= set(keys)
        for key in keys:
            number = int(key.removeprefix("n/"))
            assert await store.read(key) == bytes([number % 256]) * 200_000
            await store.delete(key)
        store.close()


async def test_what_a_dead_process_left_is_removed_a_day_later(tmp_path: Path) -> None:
    old, new = tmp_path / ".new-1", tmp_path / ".new-2"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 100_000, time.time() - 100_000))
    store = FolderStore(tmp_path)
    assert not old.exists()
    assert new.exists()  # somebody may be writing it
    assert await store.keys() == []
    store.close()


async def test_a_store_that_cannot_be_written_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a backup's disk that is mounted read-only, on which a dead process has left something."""
    store = FolderStore(tmp_path)
    await store.create("kept", b"whole")
    store.close()
    left = tmp_path / ".new-1"
    left.touch()
    os.utime(left, (0, 0))

    def refuse(path: str) -> None:
        raise OSError(errno.EROFS, "read-only file system", path)

    monkeypatch.setattr(os, "unlink", refuse)
    store = FolderStore(tmp_path, make=False)
    assert await store.read("kept") == b"whole"
    store.close()


async def test_cancelled_create_is_whole_or_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    data = random.Random(1).randbytes(20_000_000)
    task = asyncio.ensure_future(store.create("a", data))
    await asyncio.sleep(0)  # a thread has it now
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.close()  # waits for the thread
    after = FolderStore(tmp_path)
    assert await after.keys() == ["a"]
    assert await after.read("a") == data
    after.close()


# -- the bucket alone: what it says of what is wrong


@pytest.mark.parametrize(
    ("url", "environ", "said"),
    [
        (f"s3://{BUCKET}-none/a", {}, rf"no bucket {BUCKET}-none; create it, or name another"),
        (f"s3://{BUCKET}", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "is AWS_ENDPOINT_URL right"),
        (
            f"s3://{BUCKET}",
            {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"},
            "http://127.0.0.1:1 does not answer",
        ),
    ],
)
async def test_what_is_wrong_with_a_bucket_is_said(
    server: S3Server, url: str, environ: dict[str, str], said: str
) -> None:
    store = S3Objects(BucketName.parse(url), server.environ | environ, request_s=2.0, retries=1)
    for call in (store.create("a", b"1"), store.read("a"), store.keys(), store.delete("a")):
        with pytest.raises(Unavailable, match=said):
            await call
    with pytest.raises(Unavailable, match=said):
        store.make()


@pytest.mark.parametrize(
    ("status", "code", "error", "said"),
    [
        (403, "AccessDenied", Unavailable, "denies access .AccessDenied: no.; look at the keys"),
        (403, "InvalidAccessKeyId", Unavailable, "denies access"),
        (404, "", Unavailable, "does not answer as S3 does"),
        (404, "NoSuchKey", ObjectMissing, "has no a"),
        (409, "ConditionalRequestConflict", Unavailable, "ConditionalRequestConflict"),
        (412, "PreconditionFailed", ObjectExists, "a exists already"),
        (503, "SlowDown", Unavailable, "answers SlowDown: no"),
        (507, "XMinioStorageFull", Unavailable, "answers XMinioStorageFull: no"),
    ],
)
async def test_answers_of_servers_are_understood(
    status: int, code: str, error: type[Exception], said: str
) -> None:
    """Those that moto never gives. A conflict is no object: whoever was first may still fail."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>" if code else "nothing here"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    environ = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    store = S3Objects(BucketName(BUCKET), environ, request_s=2.0, retries=0)
    with pytest.raises(error, match=said):
        await (store.read("a") if code == "NoSuchKey" else store.create("a", b"1"))
    listener.close()


async def test_what_was_made_a_store_is_empty(server: S3Server) -> None:
    store = S3Objects(BucketName(BUCKET, "made"), server.environ)
    for _ in range(2):
        await asyncio.to_thread(store.make)
        assert await store.keys() == []
    await store.create("a", b"1")
    assert await store.keys() == ["a"]


async def test_a_server_that_overwrites_is_no_store() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b"" if head.startswith(b"PUT") else b"<ListBucketResult></ListBucketResult>"
        writer.write(
            b'HTTP/1.1 200 OK\r\nETag: "1"\r\nConnection: close\r\n'
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    environ = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    store = S3Objects(BucketName(BUCKET), environ, request_s=5.0, retries=0)
    with pytest.raises(ConfigError, match="overwrites what exists"):
        await asyncio.to_thread(store.make)
    listener.close()


async def test_object_whose_first_answer_was_lost_is_found_to_exist(server: S3Server) -> None:
    """The library tries again by itself: that one finds what the first has made."""
    tries = 0

    async def lose_the_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        body = await reader.readexactly(length)
        there, away = await asyncio.open_connection("127.0.0.1", server.port)
        away.write(head + body)
        answer = await there.readuntil(b"\r\n\r\n")
        if tries > 1:
            writer.write(answer)
            writer.write(await asyncio.wait_for(there.read(100_000), 5))
            await writer.drain()
        away.close()
        writer.close()

    listener = await asyncio.start_server(lose_the_first, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    environ = server.environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    store = S3Objects(BucketName(BUCKET, "lost"), environ, request_s=5.0, retries=2)
    with pytest.raises(ObjectExists):
        await store.create("a", b"1")
    assert tries == 2
    listener.close()
    assert server.request("GET", f"/{BUCKET}/lost/a") == b"1"


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///a",
        "s3://B/a",
        "s3://ab",
        "s3://bucket/a//b",
        "s3://bucket/ä",
        "s3://bucket/../a",
    ],
)
def test_what_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        BucketName.parse(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://my.bucket-1/a/b/", "s3://my.bucket-1/a/b"),
    ],
)
def test_a_bucket_has_one_name(url: str, name: str) -> None:
    assert str(BucketName.parse(url)) == name
