"""SET sextet.read_as_of: any state of the hot window, on writer and replica, with real storage nodes."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine.config import InstanceConfig
from engine.errors import ConfigError, ReadOnly, SqlError
from engine.moments import NEWEST, Moment
from engine.net.methods import COMMIT_AT, EXPORT
from engine.net.pb import control_pb2 as pb
from engine.net.pb import instance_pb2 as ipb
from engine.net.pb import storage_pb2 as spb
from engine.sql import pool
from engine.sql.session import Session
from engine.types import PAGE_SIZE
from tests.cluster.control.test_forking import BUSY, Town, Writer, filled, insert, town
from tests.support.until import until

__all__ = ["town"]  # a fixture

MINUTE = InstanceConfig(hot_window_s=60, pool_pages=8)
EVERYTHING = "SELECT id, text FROM t ORDER BY id"


@pytest.fixture(autouse=True)
def with_a_past(town: Town) -> None:
    """Storage that collects all it may at once, and a minute's window that it may not."""
    town.config, town.instance_config = BUSY, MINUTE


async def run(session: Session, sql: str) -> list[tuple[Any, ...]]:
    cursor = await session.execute(await session.prepare(sql))
    return await cursor.fetch()


def session_of(instance: Writer) -> Session:
    assert instance.instance.engine is not None
    return instance.instance.engine.session()


@asynccontextmanager
async def replica_of(town: Town) -> AsyncIterator[Writer]:
    replica = await town.open_instance("main", "main-2")
    try:
        yield replica
    finally:
        await replica.stop()


async def test_a_dropped_table_is_there_in_the_past(town: Town) -> None:
    writer = await filled(town, 5)
    before, rows = writer.commit, await writer.run(EVERYTHING)
    await writer.run("DROP TABLE t")
    await writer.run("CREATE TABLE other (id INTEGER PRIMARY KEY)")
    async with replica_of(town) as replica:
        for instance in (writer, replica):
            session = session_of(instance)
            assert await run(session, "SELECT * FROM other") == []
            session.settings.read_as_of = Moment(lsn=before)
            assert await run(session, EVERYTHING) == rows
            with pytest.raises(SqlError, match="no such table: other"):
                await run(session, "SELECT * FROM other")
            for sql in ("INSERT INTO t VALUES (99, 'x')", "DROP TABLE t", "BEGIN IMMEDIATE"):
                with pytest.raises(ReadOnly, match=r"past|read_as_of|read-only"):
                    await run(session, sql)
            session.settings.read_as_of = NEWEST
            assert await run(session, "SELECT * FROM other") == []
            with pytest.raises(SqlError, match="no such table: t"):
                await run(session, EVERYTHING)
    assert writer.commit > before


async def test_a_transaction_stays_where_it_began(town: Town) -> None:
    writer = await filled(town, 3)
    session, past = session_of(writer), writer.commit
    await insert(writer)
    await run(session, "BEGIN")
    assert len(await run(session, EVERYTHING)) == 4
    session.settings.read_as_of = Moment(lsn=past)
    assert len(await run(session, EVERYTHING)) == 4, "it has read already"
    await run(session, "COMMIT")
    assert len(await run(session, EVERYTHING)) == 3
    await run(session, "BEGIN")
    session.settings.read_as_of = Moment(lsn=past)
    assert len(await run(session, EVERYTHING)) == 3
    await insert(writer)
    assert len(await run(session, EVERYTHING)) == 3
    await run(session, "COMMIT")


async def test_every_state_of_the_window_is_read_as_it_was(town: Town, monkeypatch) -> None:
    """While commits go on, pools are small, and storage collects all that it may."""
    monkeypatch.setattr(pool, "REMEMBERED_MIN", 4)
    rng = random.Random(5)
    writer = await filled(town, 0)
    history: list[tuple[int, list[tuple[Any, ...]]]] = []
    async with replica_of(town) as replica:
        sessions = [session_of(writer), session_of(replica), session_of(writer)]
        for turn in range(60):
            if turn % 3 == 2 and history:
                sql = f"UPDATE t SET text = hex(randomblob(900)) WHERE id % 4 = {turn % 4}"
            elif turn % 11 == 10:
                sql = "DELETE FROM t WHERE id % 3 = 1"
            else:
                sql = "INSERT INTO t (text) VALUES (hex(randomblob(900)))"
            await writer.run(sql)
            history.append((writer.commit, await writer.run(EVERYTHING)))
            for session in rng.sample(sessions, 2):
                if rng.random() < 0.6:
                    lsn, rows = rng.choice(history)
                    session.settings.read_as_of = Moment(lsn=lsn)
                    assert await run(session, EVERYTHING) == rows
                    assert await run(session, "PRAGMA integrity_check") == [("ok",)]
                else:
                    session.settings.read_as_of = NEWEST
                    if session is not sessions[1]:  # a replica lags
                        assert await run(session, EVERYTHING) == history[-1][1]
    floors = await town.floors(writer.commit)
    assert max(floors) <= history[0][0], "the window is kept"


async def test_the_past_goes_on_over_a_change_of_the_writer(town: Town) -> None:
    writer = await filled(town, 10)
    before, rows = writer.commit, await writer.run(EVERYTHING)
    await writer.run("DELETE FROM t WHERE id > 2")
    await town.close_writer()
    again = await town.open_writer()
    await again.run("UPDATE t SET text = 'x'")
    session = session_of(again)
    session.settings.read_as_of = Moment(lsn=before)
    assert await run(session, EVERYTHING) == rows
    session.settings.read_as_of = Moment(time_us=1)
    with pytest.raises(SqlError, match="still have the states from LSN") as told:
        await run(session, EVERYTHING)
    assert told.value.sqlstate == "72000"


async def test_without_a_window_the_past_goes(town: Town) -> None:
    town.instance_config = InstanceConfig(hot_window_s=0)
    writer = await filled(town, 3)
    old = writer.commit

    async def gone() -> bool:
        await insert(writer)
        return min(await town.floors(writer.commit)) > old

    await until(gone)
    session = session_of(writer)
    session.settings.read_as_of = Moment(lsn=old)
    with pytest.raises(SqlError, match="what is older only an archive has") as told:
        await run(session, EVERYTHING)
    assert told.value.sqlstate == "72000"
    session.settings.read_as_of = NEWEST
    assert await run(session, EVERYTHING)


async def test_the_commit_at_a_moment_is_told_and_exported(town: Town) -> None:
    writer = await filled(town, 3)
    pages = await writer.run("PRAGMA page_count")
    middle = await commit_at(town, at_lsn=writer.commit)
    await writer.run("INSERT INTO t (text) VALUES (hex(randomblob(9000)))")  # several records
    by_time = await commit_at(town, at_time_us=middle.time_us)
    assert (by_time.lsn, by_time.pages) == (middle.lsn, pages[0][0])
    assert (await commit_at(town, at_lsn=middle.lsn + 1)).lsn == middle.lsn
    assert (await commit_at(town)).lsn == writer.commit
    with pytest.raises(ConfigError, match="no cluster"):
        await town.channel.call(COMMIT_AT, pb.CommitAtRequest(cluster="nobody"), timeout=5)
    channel = town.runtime.transport.connect(writer.server.address)
    stream = channel.stream(EXPORT, ipb.ExportRequest(as_of=middle))
    first = await stream.recv()
    assert first is not None
    assert (first.read_lsn, first.page_count) == (middle.lsn, middle.pages)
    size = 0
    while (chunk := await stream.recv()) is not None:
        size += len(chunk.pages)
    assert size == middle.pages * PAGE_SIZE
    await channel.close()


async def commit_at(town: Town, **at: int) -> spb.CommitPoint:
    reply = await town.channel.call(COMMIT_AT, pb.CommitAtRequest(cluster="main", **at), timeout=20)
    return reply.commit
