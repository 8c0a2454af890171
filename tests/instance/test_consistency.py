"""What reads on a replica must see: eventual, session, strong (docs/read-consistency.md)."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import QueryCanceled, QuorumLost, SqlError, StaleEpoch
from engine.instance import commitpoint
from engine.sql.settings import ReadConsistency
from tests.instance.test_roles import Cluster, Running, caught_up, cluster, fill, run, until

__all__ = ["cluster"]  # a fixture

COUNT = "SELECT count(*) FROM t"


async def two(made: Cluster) -> tuple[Running, Running]:
    writer, replica = await made.start("main-1"), await made.start("main-2")
    await fill(writer.session(), 1)
    await until(caught_up(replica, writer))
    return writer, replica


async def test_strong_read_sees_every_commit_that_was_acknowledged_before_it(cluster) -> None:
    writer, replica = await two(cluster)
    writing, reading = writer.session(), replica.session()
    reading.settings.read_consistency = ReadConsistency.STRONG
    for count in range(2, 42):
        await run(writing, "INSERT INTO t (text) VALUES ('x')")
        assert await run(reading, COUNT) == [(count,)]
    await run(writing, "CREATE TABLE other (id INTEGER PRIMARY KEY)")
    assert await run(reading, "SELECT * FROM other") == [], "nor is a new table unknown"
    await run(reading, "BEGIN")
    assert await run(reading, COUNT) == [(41,)]
    await run(writing, "INSERT INTO t (text) VALUES ('x')")
    assert await run(reading, COUNT) == [(41,)], "a transaction has one snapshot"
    await run(reading, "COMMIT")
    assert await run(reading, COUNT) == [(42,)]


async def test_session_read_waits_for_what_it_was_told_to(cluster) -> None:
    writer, replica = await two(cluster)
    writing, reading = writer.session(), replica.session()
    reading.settings.read_consistency = ReadConsistency.SESSION
    for count in range(2, 42):
        await run(writing, "INSERT INTO t (text) VALUES ('x')")
        reading.settings.wait_for = writing.points["sextet.last_commit"]
        assert await run(reading, COUNT) == [(count,)]
        assert reading.points["sextet.last_read"] >= reading.settings.wait_for


async def test_waiting_for_what_never_comes_ends_with_the_statement_timeout(cluster) -> None:
    _, replica = await two(cluster)
    reading = replica.session()
    reading.settings.wait_for = 10**15
    assert await run(reading, COUNT) == [(1,)], "eventual reads do not wait"
    reading.settings.read_consistency = ReadConsistency.SESSION
    patience_s, reading.settings.statement_timeout_s = reading.settings.statement_timeout_s, 0.05
    with pytest.raises(QueryCanceled, match="statement timeout"):
        await run(reading, COUNT)
    reading.settings.statement_timeout_s = patience_s
    reading.settings.wait_for = 0
    assert await run(reading, COUNT) == [(1,)]
    pool = replica.instance.pool
    assert pool is not None
    assert not pool._awaited, "who no longer waits is forgotten"


async def test_strong_read_without_a_writer_fails_and_says_so(cluster, monkeypatch) -> None:
    monkeypatch.setattr(commitpoint, "GIVE_UP_S", 0.2)
    writer, replica = await two(cluster)
    reading = replica.session()
    reading.settings.read_consistency = ReadConsistency.STRONG
    assert await run(reading, COUNT) == [(1,)]
    cluster.running.remove(writer)
    await writer.stop()
    with pytest.raises(SqlError, match="a strong read cannot be answered now") as told:
        await run(reading, COUNT)
    assert told.value.sqlstate == "57P03"
    reading.settings.read_consistency = ReadConsistency.EVENTUAL
    assert await run(reading, COUNT) == [(1,)]


async def test_writer_that_was_superseded_confirms_nothing(cluster, monkeypatch) -> None:
    """It may still believe that it is the writer: nothing has refused it yet."""
    monkeypatch.setattr("engine.instance.feed.LINGER_S", 0.0)
    running = await cluster.start("main-1")
    await fill(running.session(), 1)
    writer = running.instance.writer
    assert writer is not None
    assert await writer.confirmed() == writer.volume.vdl.lsn
    other = await cluster.fleet.open_writer()
    with pytest.raises(StaleEpoch):
        await writer.confirmed()
    await other.close()


async def test_nothing_is_confirmed_without_a_read_quorum(cluster) -> None:
    running = await cluster.start("main-1")
    await fill(running.session(), 1)
    writer = running.instance.writer
    assert writer is not None
    names = sorted(m.node for m in writer.volume.memberships[0].members)
    for name in names[:3]:
        await cluster.fleet.stop(name)
    assert await writer.confirmed() == writer.volume.vdl.lsn, "three of six overlap every fence"
    await cluster.fleet.stop(names[3])
    with pytest.raises(QuorumLost, match=f"epoch {writer.volume.epoch} is the volume's"):
        await writer.confirmed()


async def test_strong_reads_that_come_together_share_a_question(cluster) -> None:
    writer, replica = await two(cluster)
    sessions = [replica.session() for _ in range(40)]
    for session in sessions:
        session.settings.read_consistency = ReadConsistency.STRONG
    answers = await asyncio.gather(*(run(session, COUNT) for session in sessions))
    assert answers == [[(1,)]] * 40
    follower, leader = replica.instance.replica, writer.instance.writer
    assert follower is not None
    assert leader is not None
    assert follower.commit_point.questions <= 3
    assert leader.commit_point.questions <= 3
