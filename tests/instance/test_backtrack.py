"""Backtracking a writer and its replicas over six real storage nodes, in one process, over gRPC."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from engine.config import InstanceConfig
from engine.errors import (
    ConfigError,
    DeadlineExceeded,
    LockTimeout,
    ProtocolError,
    SextetError,
    VolumeFull,
)
from engine.instance.backtrack import WHY
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import BACKTRACK, EXPORT
from engine.net.pb import instance_pb2 as pb
from engine.net.pb.storage_pb2 import CommitPoint
from engine.ports import Channel, Stream
from engine.sql.session import Session
from engine.steps import Mark, Step
from engine.types import PAGE_SIZE, CommitMark
from tests.instance.test_roles import Cluster, Running, caught_up, cluster, fill, run, until

__all__ = ["cluster"]

ROWS = "SELECT id, text FROM t ORDER BY id"
CHUNK = 16 * PAGE_SIZE


class Past:
    """A whole database, as a caller of Backtrack has it."""

    def __init__(self, mark: CommitMark, data: bytes) -> None:
        self.point = CommitPoint(lsn=mark.lsn, time_us=mark.time_us, pages=mark.pages)
        self.data = data

    def chunks(self) -> list[pb.BacktrackChunk]:
        parts = [self.data[at : at + CHUNK] for at in range(0, len(self.data), CHUNK)]
        return [pb.BacktrackChunk(past=self.point, pages=part) for part in parts]

    def rows(self, sql: str = ROWS) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(self.data)
            return database.execute(sql).fetchall()


@asynccontextmanager
async def channel_to(instance: Running) -> AsyncIterator[Channel]:
    channel = GrpcTransport().connect(instance.server.address)
    try:
        yield channel
    finally:
        await channel.close()


def newest(writer: Running) -> CommitMark:
    assert writer.instance.pool is not None
    return writer.instance.pool.visible


async def now(writer: Running) -> Past:
    """The database as it is."""
    mark = newest(writer)
    async with channel_to(writer) as channel:
        stream = channel.stream(EXPORT, pb.ExportRequest())
        data = b""
        while (chunk := await stream.recv()) is not None:
            data += chunk.pages
    assert (newest(writer), len(data)) == (mark, mark.pages * PAGE_SIZE)
    return Past(mark, data)


async def go_to(writer: Running, past: Past) -> pb.BacktrackReply:
    return await send(writer, past.chunks())


async def send(writer: Running, chunks: list[pb.BacktrackChunk]) -> pb.BacktrackReply:
    async with channel_to(writer) as channel:
        stream: Stream[pb.BacktrackChunk, pb.BacktrackReply] = channel.stream(BACKTRACK)
        for chunk in chunks:
            await stream.send(chunk)
        await stream.done_sending()
        return await channel.collect(BACKTRACK, stream)


def note_dismissals(running: Running) -> list[str]:
    told: list[str] = []

    async def dismiss(why: str) -> None:
        told.append(why)

    running.instance.dismiss_clients = dismiss
    return told


async def fill_at_once(session: Session, rows: int) -> None:
    await run(session, "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
    await run(
        session,
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
        " INSERT INTO t (text) SELECT hex(randomblob(200)) FROM n",
    )


def is_free(writer: Running) -> bool:
    assert writer.instance.engine is not None
    return not writer.instance.engine.lock.held


async def test_back_and_forward_again_on_writer_and_replica(cluster: Cluster) -> None:
    writer = await cluster.start("main-1", InstanceConfig(pool_pages=16))
    replica = await cluster.start("main-2")
    told, told_there = note_dismissals(writer), note_dismissals(replica)
    session, idle, reading = writer.session(), writer.session(), replica.session()
    await fill(session, 30)
    small = await now(writer)
    await run(
        session,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)"
        " INSERT INTO t (text) SELECT hex(randomblob(1000)) FROM n",
    )
    await run(session, "DELETE FROM t WHERE id = 3")
    large = await now(writer)
    assert large.point.pages > 2 * small.point.pages > 4
    await until(caught_up(replica, writer))
    for reader in (idle, reading):
        assert len(await run(reader, ROWS)) == 329

    # Back: the database shrinks.
    reply = await go_to(writer, small)
    assert (reply.before, list(reply.unclosed)) == (large.point, [])
    assert reply.commit.lsn > large.point.lsn
    assert reply.commit.pages == small.point.pages
    assert 0 < reply.changed_pages <= small.point.pages
    assert newest(writer).lsn == reply.commit.lsn
    assert newest(replica).lsn == reply.commit.lsn, "its clients were dismissed when it showed that"
    assert (told, told_there) == ([WHY, WHY], [WHY])
    for reader in (session, idle, reading):
        assert await run(reader, ROWS) == small.rows()
        assert await run(reader, "PRAGMA integrity_check") == [("ok",)]

    # And it goes on from there.
    await run(session, "INSERT INTO t (text) VALUES ('after')")
    await until(caught_up(replica, writer))
    for reader in (idle, reading):
        assert await run(reader, "SELECT id, text FROM t ORDER BY id DESC LIMIT 1") == [
            (31, "after")
        ]

    # Forward again: it grows, and is whole.
    again = await go_to(writer, large)
    assert again.commit.pages == large.point.pages
    for reader in (session, idle, reading):
        assert await run(reader, ROWS) == large.rows()
        assert await run(reader, "PRAGMA integrity_check") == [("ok",)]

    # What is there already is not written again.
    point, commits = newest(writer), (await writer.status()).counters["commits"]
    nothing = await go_to(writer, large)
    assert not nothing.HasField("commit")
    assert nothing.before.lsn == again.commit.lsn
    assert (nothing.changed_pages, newest(writer)) == (0, point)
    assert (await writer.status()).counters["commits"] == commits


async def test_redo_grows_with_the_difference(cluster: Cluster) -> None:
    writer = await cluster.start("main-1")
    session = writer.session()
    await fill_at_once(session, 300)
    past = await now(writer)
    await run(session, "UPDATE t SET text = 'x' WHERE id = 150")
    before = (await writer.status()).counters["redo_bytes"]
    reply = await go_to(writer, past)
    assert past.point.pages > 25
    assert reply.changed_pages <= 3
    assert (await writer.status()).counters["redo_bytes"] - before < PAGE_SIZE // 2


async def test_a_session_that_slept_on_a_replica_sees_what_came_after(cluster: Cluster) -> None:
    """Both statements change the same page in the same way, from the same state: what this session has
    cached of the one is not valid for the other."""
    writer = await cluster.start("main-1")
    replica = await cluster.start("main-2")
    session, asleep = writer.session(), replica.session()
    await fill(session, 3)
    past = await now(writer)
    await run(session, "UPDATE t SET text = 'one' WHERE id = 1")
    await until(caught_up(replica, writer))
    of_one = "SELECT text FROM t WHERE id = 1"
    assert await run(asleep, of_one) == [("one",)]
    await go_to(writer, past)
    await run(session, "UPDATE t SET text = 'two' WHERE id = 1")
    await until(caught_up(replica, writer))
    assert await run(asleep, of_one) == [("two",)]


async def test_an_open_snapshot_stays_and_a_transaction_on_it_fails(cluster: Cluster) -> None:
    writer = await cluster.start("main-1")
    session, open_ = writer.session(), writer.session()
    await fill(session, 3)
    past = await now(writer)
    await run(session, "DELETE FROM t")
    await run(open_, "BEGIN")
    assert await run(open_, ROWS) == []
    await go_to(writer, past)
    assert await run(open_, ROWS) == []
    with pytest.raises(SextetError) as refused:
        await run(open_, "INSERT INTO t (text) VALUES ('on what is no more')")
    assert refused.value.sqlstate == "40001"
    await run(open_, "ROLLBACK")
    assert await run(open_, ROWS) == past.rows()


async def test_what_cannot_be_changes_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await cluster.start("main-1", InstanceConfig(import_bytes_max=20 * PAGE_SIZE))
    told = note_dismissals(writer)
    session = writer.session()
    await fill_at_once(session, 300)
    past = await now(writer)
    await run(session, "UPDATE t SET text = 'x' WHERE id = 1")
    point = newest(writer)
    good = past.chunks()
    ahead = [pb.BacktrackChunk(past=CommitPoint(lsn=point.lsn + 1, pages=1), pages=good[0].pages)]
    none = [pb.BacktrackChunk(past=CommitPoint(pages=1), pages=good[0].pages)]
    for chunks, what, said in (
        ([], ProtocolError, "no page came"),
        (ahead, ConfigError, f"LSN {point.lsn + 1} is no earlier commit of this cluster"),
        (none, ConfigError, "LSN 0 is no earlier commit"),
    ):
        with pytest.raises(what, match=said):
            await send(writer, chunks)
    assert not told, "nobody was disturbed for that"
    other = pb.BacktrackChunk(past=past.point, pages=bytes(PAGE_SIZE))
    part = pb.BacktrackChunk(pages=b"half a page")
    for chunks, what, said in (
        (good[:-1], ProtocolError, f"pages came of {past.point.pages}; nothing is changed"),
        ([*good, good[-1]], ProtocolError, f"pages came of {past.point.pages}; nothing is changed"),
        ([*good, pb.BacktrackChunk()], ProtocolError, "a chunk without pages"),
        ([good[0], part], ProtocolError, "is not whole 4 KiB pages"),
        ([other, *good[1:]], ProtocolError, "page 1 has no SQLite header"),
    ):
        with pytest.raises(what, match=said):
            await send(writer, chunks)
        assert is_free(writer)
    assert newest(writer) == point
    await run(session, "UPDATE t SET text = 'x'")
    with pytest.raises(ConfigError, match=f"more than {20 * PAGE_SIZE} bytes of pages differ"):
        await send(writer, good)
    assert await run(session, "SELECT DISTINCT text FROM t") == [("x",)]

    # Somebody else has the lock.
    monkeypatch.setattr("engine.instance.backtrack.LOCK_S", 0.1)
    await run(session, "BEGIN IMMEDIATE")
    with pytest.raises(LockTimeout, match="nobody else may write meanwhile"):
        await send(writer, good)
    await run(session, "COMMIT")
    await run(session, "INSERT INTO t (text) VALUES ('goes on')")


async def test_no_room_for_what_was_larger(cluster: Cluster) -> None:
    writer = await cluster.start("main-1")
    session = writer.session()
    await fill_at_once(session, 100)
    past = await now(writer)
    await run(session, "DROP TABLE t")
    await run(session, "VACUUM")
    point = newest(writer)
    assert writer.instance.writer is not None
    writer.instance.writer.volume.limit.change(point.pages)
    with pytest.raises(VolumeFull, match="the volume is full"):
        await go_to(writer, past)
    assert newest(writer) == point
    writer.instance.writer.volume.limit.change(1000)
    await go_to(writer, past)
    assert await run(session, ROWS) == past.rows()


@pytest.mark.parametrize("silent", [True, False])
async def test_a_caller_that_is_silent_or_gone_holds_nobody_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    writer = await cluster.start("main-1")
    session = writer.session()
    await fill_at_once(session, 100)
    past = await now(writer)
    await run(session, "DELETE FROM t")
    point = newest(writer)
    if silent:
        monkeypatch.setattr("engine.instance.backtrack.SILENCE_S", 0.5)
    async with channel_to(writer) as channel:
        stream: Stream[pb.BacktrackChunk, pb.BacktrackReply] = channel.stream(BACKTRACK)
        await stream.send(past.chunks()[0])
        await until(lambda: not is_free(writer))
        if silent:
            async with asyncio.timeout(5.0):
                with pytest.raises(DeadlineExceeded, match=r"no page came for .* s; nothing is"):
                    await channel.collect(BACKTRACK, stream)
        else:
            stream.close()
        await until(lambda: is_free(writer))
    assert newest(writer) == point
    await run(session, "INSERT INTO t (text) VALUES ('goes on')")
    assert [row[1] for row in await run(session, ROWS)] == ["goes on"]


async def test_a_caller_that_goes_after_the_last_page_does_not_undo_it(cluster: Cluster) -> None:
    writer = await cluster.start("main-1")
    told = note_dismissals(writer)
    session = writer.session()
    await fill(session, 20)
    past = await now(writer)
    await run(session, "DELETE FROM t")
    pool = writer.instance.pool
    assert pool is not None
    point = newest(writer)
    await cluster.fleet.stop("storage-1", "storage-2", "storage-3")
    sending = asyncio.create_task(go_to(writer, past))
    await until(lambda: pool.tip.lsn > point.lsn)
    assert told == [WHY]
    sending.cancel()
    await until(lambda: is_free(writer))
    assert told == [WHY, WHY]
    assert newest(writer) == point
    await cluster.fleet.start("storage-1", "storage-2", "storage-3")
    await until(lambda: newest(writer) == pool.tip)
    assert await run(writer.session(), ROWS) == past.rows()


class Died(BaseException):
    """As kill -9 does, nothing catches it."""


class DieAt:
    """Steps of a writer that dies at one of them."""

    def __init__(self, when: str) -> None:
        self.when = when
        self.died = False

    def before(self, step: Step) -> None:
        self._at("before", step)

    def after(self, step: Step) -> None:
        self._at("after", step)

    def mark(self, mark: Mark) -> None: ...

    def _at(self, when: str, step: Step) -> None:
        if (when, step) == (self.when, Step.BACKTRACK):
            self.died = True
            raise Died


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_writer_that_dies_at_the_step_leaves_it_absent_or_complete(
    cluster: Cluster, when: str
) -> None:
    steps = DieAt(when)
    writer = await cluster.start("main-1", steps=steps)
    session = writer.session()
    await fill(session, 20)
    past = await now(writer)
    await run(session, "UPDATE t SET text = 'x' WHERE id > 10")
    undone = await now(writer)
    sending = asyncio.create_task(go_to(writer, past))
    await until(lambda: steps.died)
    await writer.stop()
    with pytest.raises(SextetError):
        await sending
    await cluster.catalog.name_writer("main-2")
    other = await cluster.start("main-2")
    expected = undone if when == "before" else past
    assert await run(other.session(), ROWS) == expected.rows()
    again = await go_to(other, past)
    assert again.HasField("commit") is (when == "before")
    assert await run(other.session(), ROWS) == past.rows()


async def test_a_writer_that_dies_before_it_is_durable_leaves_it_absent_or_complete(
    cluster: Cluster,
) -> None:
    writer = await cluster.start("main-1")
    session = writer.session()
    await fill(session, 20)
    past = await now(writer)
    await run(session, "UPDATE t SET text = 'x' WHERE id > 10")
    undone = await now(writer)
    await cluster.fleet.stop("storage-1", "storage-2", "storage-3")
    sending = asyncio.create_task(go_to(writer, past))
    pool = writer.instance.pool
    assert pool is not None
    await until(lambda: pool.tip.lsn > undone.point.lsn)
    assert not sending.done()
    await writer.stop()
    with pytest.raises(SextetError):
        await sending
    await cluster.fleet.start("storage-1", "storage-2", "storage-3")
    await cluster.catalog.name_writer("main-2")
    other = await cluster.start("main-2")
    assert await run(other.session(), ROWS) in (undone.rows(), past.rows())
    await go_to(other, past)
    assert await run(other.session(), ROWS) == past.rows()


async def test_clients_are_dismissed_once_the_commit_is_visible(cluster: Cluster) -> None:
    writer = await cluster.start("main-1")
    told = note_dismissals(writer)
    session = writer.session()
    await fill(session, 3)
    request = pb.DismissClientsRequest(why="a reason", after_lsn=newest(writer).lsn + 1)
    asking = asyncio.create_task(writer.instance._dismiss_clients(request))
    await asyncio.sleep(0)
    assert not told
    await run(session, "DELETE FROM t")
    assert (await asking).read_lsn == newest(writer).lsn
    assert told == ["a reason"]


async def test_a_replica_that_does_not_answer_is_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.instance.node.SHOWN_S", 0.3)
    writer = await cluster.start("main-1")
    late, gone, well = [await cluster.start(f"main-{n}") for n in (2, 3, 4)]
    session = writer.session()
    await fill(session, 3)
    past = await now(writer)
    await run(session, "DELETE FROM t")
    told, told_well = note_dismissals(late), note_dismissals(well)
    await gone.stop()
    assert late.instance.replica is not None
    late.instance.replica._take = lambda _item: None  # type: ignore[method-assign]
    reply = await go_to(writer, past)
    assert list(reply.unclosed) == ["main-2", "main-3"]
    assert (told, told_well) == ([WHY], [WHY]), "late or not, its clients are closed"
    assert await run(well.session(), ROWS) == past.rows()
