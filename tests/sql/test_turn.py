"""Write turns: order, durability, and that nobody is shown what may still be lost."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import CommitUnknown, LockTimeout, QueryCanceled, SerializationFailure
from engine.sql.engine import SqlEngine
from engine.sql.session import Session
from tests.sql.client import fails, parked, rows, run, settle
from tests.sql.local_volume import LocalVolume


@pytest.fixture
async def writer(volume: LocalVolume, engine: SqlEngine) -> Session:
    """A session on a table with one durable row; from here on the test moves VDL."""
    session = engine.session()
    await run(session, "create table t(a integer primary key, b text unique)")
    await run(session, "insert into t values (1, 'one')")
    await settle()
    volume.hold()
    return session


async def test_a_commit_is_answered_when_it_is_durable(
    volume: LocalVolume, writer: Session
) -> None:
    task = await parked(run(writer, "insert into t values (2, 'two')"))
    assert volume.waiting == 1
    volume.make_durable()
    assert (await task).tag == "INSERT 0 1"


async def test_the_session_parks_and_the_engine_goes_on(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    sessions = [engine.session() for _ in range(5)]
    tasks = [
        await parked(run(s, "insert into t values ($1, $1)", n)) for n, s in enumerate(sessions, 2)
    ]
    assert len(volume.commits) == 3 + len(tasks), "all have committed, none is durable"
    assert not engine.lock.held
    volume.make_durable(volume.commits[5])
    await settle()
    assert [t.done() for t in tasks] == [True, True, True, False, False]
    volume.make_durable()
    await asyncio.gather(*tasks)


async def test_readers_never_see_above_vdl(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    reader = engine.session()
    task = await parked(run(writer, "insert into t values (2, 'two')"))
    assert await rows(reader, "select a from t") == [(1,)]
    volume.make_durable()
    assert await rows(reader, "select a from t") == [(1,), (2,)]
    await task


async def test_a_session_reads_its_own_commits(volume: LocalVolume, writer: Session) -> None:
    task = await parked(run(writer, "insert into t values (2, 'two')"))
    volume.make_durable()
    await task
    assert len(await rows(writer, "select * from t")) == 2


async def test_returned_rows_wait_for_the_commit(volume: LocalVolume, writer: Session) -> None:
    task = await parked(rows(writer, "update t set b = 'x' returning b"))
    volume.make_durable()
    assert await task == [("x",)]


async def test_a_transaction_on_a_tip_above_vdl_shows_nothing_before_that_is_durable(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    first = await parked(run(writer, "insert into t values (2, 'two')"))
    second = engine.session()
    await run(second, "begin")
    task = await parked(rows(second, "update t set b = b || '!' returning a"))
    volume.make_durable()
    assert await task == [(1,), (2,)]
    await first
    assert await rows(second, "select b from t") == [("one!",), ("two!",)]
    commit = await parked(run(second, "commit"))
    volume.make_durable()
    assert (await commit).tag == "COMMIT"


@pytest.mark.parametrize(
    "sql",
    [
        "insert into t values (3, 'two')",  # the error tells that 'two' is there
        "update t set b = 'x' where a = 99",  # so does a count of none
    ],
)
async def test_not_even_an_error_tells_of_what_is_not_durable(
    volume: LocalVolume, engine: SqlEngine, writer: Session, sql: str
) -> None:
    first = await parked(run(writer, "insert into t values (2, 'two')"))
    second = engine.session()
    task = await parked(run(second, sql))
    volume.make_durable()
    await asyncio.gather(task, return_exceptions=True)
    await first
    assert not engine.lock.held


async def test_begin_immediate_reads_nothing_and_what_follows_waits(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    first = await parked(run(writer, "insert into t values (2, 'two')"))
    second = engine.session()
    await run(second, "begin immediate")
    task = await parked(rows(second, "select a from t"))
    volume.make_durable()
    assert await task == [(1,), (2,)]
    await first
    await run(second, "rollback")


async def test_a_begin_that_fails_has_begun_nothing(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    """A client that is told of an error by BEGIN has no reason to roll back."""
    first = await parked(run(writer, "create table another(a)"))
    second = engine.session()
    second.settings.statement_timeout_s = 0.01
    assert isinstance(await fails(second, "begin immediate"), QueryCanceled)
    assert second.status == "I"
    assert not engine.lock.held
    assert await rows(second, "select a from t") == [(1,)]
    volume.make_durable()
    await first


async def test_reads_go_on_after_a_write_that_timed_out(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    """A session that gave up waiting for its base must not wait for it again to read."""
    first = await parked(run(writer, "insert into t values (2, 'two')"))
    second = engine.session()
    second.settings.statement_timeout_s = 0.01
    assert isinstance(await fails(second, "update t set b = 'x' where a = 99"), QueryCanceled)
    assert await rows(second, "select a from t") == [(1,)]
    volume.make_durable()
    await first


# -- unknown outcomes


async def test_a_commit_without_quorum_has_an_unknown_outcome(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    writer.settings.statement_timeout_s = 0.01
    error = await fails(writer, "insert into t values (2, 'two')")
    assert isinstance(error, CommitUnknown)
    assert error.sqlstate == "08007"
    assert "whole or not at all" in str(error)
    assert writer.status == "I"
    assert not engine.lock.held
    writer.settings.statement_timeout_s = 0
    assert await rows(writer, "select a from t") == [(1,)]
    volume.make_durable()
    assert await rows(writer, "select a from t") == [(1,), (2,)]


async def test_an_explicit_commit_can_be_unknown_too(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    await run(writer, "begin")
    await run(writer, "insert into t values (2, 'two')")
    task = await parked(run(writer, "commit"))
    writer.cancel()
    with pytest.raises(CommitUnknown, match="user request"):
        await task
    assert writer.status == "I"
    assert not engine.lock.held


async def test_a_fenced_writer_does_not_know_either(volume: LocalVolume, writer: Session) -> None:
    task = await parked(run(writer, "insert into t values (2, 'two')"))
    volume.fence()
    with pytest.raises(CommitUnknown, match="newer writer"):
        await task


async def test_after_an_unknown_commit_the_session_meets_no_stale_cache(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    """Its page cache has the commit; VDL may or may not. Reading must follow VDL."""
    writer.settings.statement_timeout_s = 0.01
    for number in range(2, 6):
        assert (await fails(writer, "insert into t values ($1, $1)", number)).sqlstate == "08007"
        assert await rows(writer, "select count(*) from t") == [(1,)]
        assert await rows(writer, "pragma integrity_check") == [("ok",)]
    volume.make_durable(volume.commits[4])
    assert await rows(writer, "select count(*) from t") == [(3,)]
    volume.make_durable()
    assert await rows(writer, "select count(*) from t") == [(5,)]


async def test_a_crash_takes_whole_commits(volume: LocalVolume, engine: SqlEngine) -> None:
    session = engine.session()
    await run(session, "create table t(a)")
    await settle()
    volume.hold()
    tasks = []
    for number in range(4):
        other = engine.session()
        sql = "insert into t values ($1), (zeroblob(9000))"
        tasks.append(await parked(run(other, sql, number)))
    volume.make_durable(volume.commits[-3])
    await settle()
    assert [t.done() for t in tasks] == [True, True, False, False]
    volume.crash()
    volume.fence()
    await asyncio.gather(*tasks, return_exceptions=True)

    volume.dead = False
    recovered = volume.writer()
    after = recovered.session()
    assert await rows(after, "select a from t where typeof(a) = 'integer'") == [(0,), (1,)]
    assert await rows(after, "pragma integrity_check") == [("ok",)]
    volume.held = False
    await run(after, "insert into t values (9)")
    await recovered.close()


# -- order


async def test_write_transactions_run_in_order_of_arrival(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    volume.held = False
    await run(writer, "create table log(n)")
    await run(writer, "begin immediate")
    sessions = [engine.session() for _ in range(8)]
    tasks = [await parked(run(s, "insert into log values ($1)", n)) for n, s in enumerate(sessions)]
    await run(writer, "insert into log values ('first')")
    await run(writer, "commit")
    await asyncio.gather(*tasks)
    assert await rows(writer, "select n from log") == [("first",), *((n,) for n in range(8))]


async def test_lock_timeout(volume: LocalVolume, engine: SqlEngine, writer: Session) -> None:
    await run(writer, "begin immediate")
    second = engine.session()
    second.settings.lock_timeout_s = 0.01
    error = await fails(second, "delete from t")
    assert isinstance(error, LockTimeout)
    assert error.sqlstate == "55P03"
    assert await rows(second, "select a from t") == [(1,)]
    await run(writer, "rollback")
    task = await parked(run(second, "delete from t"))
    volume.make_durable()
    await task


async def test_statement_timeout_and_cancel_while_waiting_for_the_lock(
    engine: SqlEngine, writer: Session
) -> None:
    await run(writer, "begin immediate")
    second = engine.session()
    second.settings.statement_timeout_s = 0.01
    assert (await fails(second, "delete from t")).sqlstate == "57014"
    second.settings.statement_timeout_s = 0
    task = await parked(run(second, "delete from t"))
    second.cancel()
    with pytest.raises(QueryCanceled):
        await task
    await run(writer, "rollback")
    assert not engine.lock.held


async def test_back_pressure_holds_up_writes_not_reads(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    volume.held = False
    volume.room.clear()
    task = await parked(run(writer, "insert into t values (2, 'two')"))
    assert await rows(engine.session(), "select a from t") == [(1,)]
    volume.room.set()
    await task


async def test_exclusive_keeps_writers_out(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    volume.held = False
    async with engine.exclusive():
        task = await parked(run(writer, "insert into t values (2, 'two')"))
    await task


# -- serializability


async def test_reading_then_writing_on_a_stale_snapshot_fails(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    volume.held = False
    second = engine.session()
    await run(second, "begin")
    assert await rows(second, "select count(*) from t") == [(1,)]
    await run(writer, "insert into t values (2, 'two')")
    assert await rows(second, "select count(*) from t") == [(1,)]
    error = await fails(second, "insert into t select 10 + count(*), 'n' from t")
    assert isinstance(error, SerializationFailure)
    assert (error.sqlstate, second.status) == ("40001", "E")
    assert not engine.lock.held
    await run(second, "rollback")
    await run(second, "insert into t select 10 + count(*), 'n' from t")
    assert (12,) in await rows(second, "select a from t")


async def test_a_snapshot_behind_commits_that_are_not_durable_is_stale_too(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    first = await parked(run(writer, "insert into t values (2, 'two')"))
    second = engine.session()
    await run(second, "begin")
    assert await rows(second, "select count(*) from t") == [(1,)]
    assert (await fails(second, "delete from t")).sqlstate == "40001"
    volume.make_durable()
    await first


async def test_reading_then_writing_on_the_newest_state_works(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    volume.held = False
    await run(writer, "begin")
    assert await rows(writer, "select count(*) from t") == [(1,)]
    await run(writer, "insert into t select 10 + count(*), 'n' from t")
    await run(writer, "commit")
    assert await rows(writer, "select a from t") == [(1,), (11,)]


async def test_nobody_commits_between_a_transactions_read_and_its_write(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    """A counter incremented by read, then write, from many sessions: no update is lost."""
    volume.held = False
    await run(writer, "create table counter(n)")
    await run(writer, "insert into counter values (0)")

    async def increment(session: Session) -> int:
        failures = 0
        while True:
            await run(session, "begin")
            ((n,),) = await rows(session, "select n from counter")
            await asyncio.sleep(0)
            try:
                await run(session, "update counter set n = $1", n + 1)  # type: ignore[operator]
                await run(session, "commit")
            except SerializationFailure:
                await run(session, "rollback")
                failures += 1
            else:
                return failures

    failures = await asyncio.gather(*(increment(engine.session()) for _ in range(20)))
    assert await rows(writer, "select n from counter") == [(20,)]
    assert sum(failures) > 0


async def test_a_snapshot_in_a_transaction_does_not_move(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    volume.held = False
    reader = engine.session()
    await run(reader, "begin read only")
    assert await rows(reader, "select count(*) from t") == [(1,)]
    pinned = engine.pool.min_pinned()
    for number in range(2, 30):
        await run(writer, "insert into t values ($1, $1)", number)
    assert engine.pool.min_pinned() == pinned
    assert await rows(reader, "select count(*) from t") == [(1,)]
    assert await rows(reader, "pragma integrity_check") == [("ok",)]
    await run(reader, "commit")
    assert engine.pool.min_pinned() > pinned
    assert await rows(reader, "select count(*) from t") == [(29,)]


async def test_what_on_conflict_fail_leaves_is_durable_before_the_error_is_told(
    volume: LocalVolume, engine: SqlEngine, writer: Session
) -> None:
    """SQLite keeps the rows before the one that failed; the client must not take it for unknown."""
    sql = "insert or fail into t select column1, null from (values (101), (102), (101))"
    task = await parked(fails(writer, sql))
    assert not engine.lock.held
    volume.make_durable()
    assert (await task).sqlstate == "23505"
    assert await rows(writer, "select a from t where a > 100 order by a") == [(101,), (102,)]
    writer.settings.statement_timeout_s = 0.02
    assert (await fails(writer, sql.replace("10", "20"))).sqlstate == "08007"
