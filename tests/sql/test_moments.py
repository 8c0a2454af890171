"""An interruption at every moment of a statement's life, and pools with hardly any room.

`cancel` is called after each possible number of turns of the event loop. Whatever the moment: no
outcome is told that is not true, nothing is left behind, and the session goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from engine.errors import LockTimeout, QueryCanceled, SerializationFailure, SqlError
from engine.sql.engine import SqlEngine, SqlSettings
from engine.sql.session import Session
from tests.sql.client import fails, parked, rows, run, settle
from tests.sql.local_volume import LocalVolume

ACCOUNTS = 40
TURNS_MAX = 400
BIG = "with recursive c(x) as (select 1 union all select x + 1 from c where x < {}) "

STATEMENTS = {
    "autocommit": ["insert into t " + BIG.format(300) + "select x, x, randomblob(200) from c"],
    "returning": ["insert into t values (1, 1, 'x'), (2, 2, 'y'), (3, 3, 'z') returning a, c"],
    "commit": [
        "begin",
        "insert into t values (1, 1, 'x')",
        "insert into t values (2, 2, 'y')",
        "commit",
    ],
    "immediate": [
        "begin immediate",
        "update t set c = 'new'",
        "insert into t values (1, 1, 'x')",
        "end",
    ],
    "savepoint": [
        "begin",
        "insert into t values (1, 1, 'x')",
        "savepoint s",
        "insert into t values (2, 2, '')",
        "rollback to s",
        "insert into t values (3, 3, '')",
        "commit",
    ],
    "table": ["create table u as select * from t"],
    "index": ["create index i on t (c)"],
}


async def prepared(volume: LocalVolume, capacity: int) -> SqlEngine:
    """An engine over a table of several pages, none of them cached."""
    engine = volume.writer()
    session = engine.session()
    await run(session, "create table t (a integer primary key, b int, c text)")
    await run(
        session, "insert into t " + BIG.format(60) + "select x + 1000, x, hex(zeroblob(150)) from c"
    )
    await engine.close()
    volume.on_durable.clear()
    settings = SqlSettings(progress_steps=50, cache_pages=2)
    return volume.writer(capacity=capacity, settings=settings)


async def state(session: Session) -> object:
    names = await rows(session, "select name from sqlite_schema order by 1")
    return names, await rows(
        session, "select a, b, c from t where a < 1000 or c = 'new' order by a"
    )


async def all_of(session: Session, statements: Sequence[str]) -> None:
    for sql in statements:
        await run(session, sql)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("capacity", [1, 1000])
@pytest.mark.parametrize("what", STATEMENTS)
async def test_cancelled_at_every_moment(what: str, capacity: int, held: bool) -> None:
    """Turn by turn, until it ends before the cancellation comes."""
    statements = STATEMENTS[what]
    told: set[str] = set()
    for turns in range(TURNS_MAX):
        if turns > 30 and turns % 7:
            continue
        volume = LocalVolume()
        engine = await prepared(volume, capacity)
        session, other = engine.session(), engine.session()
        before = await state(other)
        commits = len(volume.commits)
        volume.held = held
        task = asyncio.ensure_future(all_of(session, statements))
        for _ in range(turns):
            await asyncio.sleep(0)
        last = volume.waiting > 0 if held else task.done()
        session.cancel()
        if held:
            await settle(60)
            volume.held = False
            volume.make_durable()
        try:
            await task
            outcome = "done"
        except SqlError as error:
            outcome = error.sqlstate
        told.add(outcome)
        assert not (held and last) or outcome == "08007"
        assert outcome in ("done", "57014", "08007")
        if session.status != "I":
            await run(session, "rollback")
        await settle()
        volume.make_durable()
        assert (len(volume.commits) > commits) == (outcome != "57014")
        assert (await state(other) == before) == (outcome == "57014")
        assert not engine.lock.held
        assert engine.pool.min_pinned() == engine.pool.visible.lsn
        await run(session, "insert into t values (500, 5, 'after')")
        assert await rows(other, "select b from t where a = 500") == [(5,)]
        assert await rows(other, "pragma integrity_check") == [("ok",)]
        await engine.close()
        if last:
            break
    else:
        pytest.fail("it never ended by itself")
    assert ("08007" if held else "done") in told


async def test_every_wait_has_its_time_limit(volume: LocalVolume, engine: SqlEngine) -> None:
    holder, waiter = engine.session(), engine.session()
    await run(holder, "create table t (a)")
    insert = "insert into t values (1)"
    waiter.settings.statement_timeout_s = 0.02

    await run(holder, "begin immediate")
    assert type(await fails(waiter, insert)) is QueryCanceled
    assert type(await fails(waiter, "begin immediate")) is QueryCanceled
    # Far apart: on a loaded machine both of two near ones are over when somebody looks.
    waiter.settings.lock_timeout_s, waiter.settings.statement_timeout_s = 0.01, 60
    assert type(await fails(waiter, "begin exclusive")) is LockTimeout
    await run(waiter, "begin")
    assert type(await fails(waiter, insert)) is LockTimeout
    assert waiter.status == "E"
    await run(waiter, "rollback")
    await run(holder, "rollback")

    waiter.settings.statement_timeout_s = 0.02
    volume.room.clear()  # back-pressure
    assert type(await fails(waiter, insert)) is QueryCanceled
    assert not engine.lock.held
    volume.room.set()

    volume.hold()  # durability, of its own commit and of what it stands on
    assert (await fails(waiter, insert)).sqlstate == "08007"
    await run(holder, "begin")
    holder.settings.statement_timeout_s = 0.02
    assert (await fails(holder, "update t set a = 2")).sqlstate == "57014"
    assert (await fails(holder, "select 1")).sqlstate == "25P02"
    await run(holder, "rollback")
    volume.make_durable()
    assert await rows(waiter, "select count(*) from t") == [(1,)]


async def test_a_cold_page_that_never_comes(volume: LocalVolume) -> None:
    engine = await prepared(volume, 1)
    session, other = engine.session(), engine.session()
    volume.gate.clear()
    session.settings.statement_timeout_s = 0.02
    for sql in ("select count(*) from t", "update t set b = 0", "pragma integrity_check"):
        assert (await fails(session, sql)).sqlstate == "57014", sql
        assert not engine.lock.held
    task = await parked(rows(other, "select count(*) from t"))
    volume.gate.set()
    assert await task == [(60,)]
    session.settings.statement_timeout_s = 0
    assert await rows(session, "select count(*) from t") == [(60,)]
    assert engine.pool.min_pinned() == engine.pool.visible.lsn
    await engine.close()


# -- pools with hardly any room, readers with pinned read points


async def transfers(session: Session, rng: random.Random, count: int) -> int:
    done = 0
    while done < count:
        one, two = rng.sample(range(ACCOUNTS), 2)
        if rng.random() < 0.5:  # at the tip, which may be ahead of what is durable
            move = "update t set b = b + case a when $1 then -1 else 1 end where a in ($1, $2)"
            await run(session, move, one, two)
            done += 1
            continue
        try:
            await run(session, rng.choice(("begin", "begin immediate")))
            ((balance,),) = await rows(session, "select b from t where a = $1", one)
            assert isinstance(balance, int)
            await run(session, "update t set b = $1 where a = $2", balance - 1, one)
            if rng.random() < 0.3:
                await run(session, "savepoint s")
                await run(session, "update t set b = b + 1000, c = hex(randomblob(900))")
                await run(session, "rollback to s")
            await run(session, "update t set b = b + 1 where a = $1", two)
            await run(session, "commit" if rng.random() < 0.9 else "rollback")
            done += 1
        except SerializationFailure:
            await run(session, "rollback")
    return done


async def look(session: Session, rng: random.Random, stop: asyncio.Event) -> int:
    """Sums that must not move: within a transaction, and over all accounts ever."""
    looks = 0
    while not stop.is_set():
        await run(session, "begin read only")
        first = await rows(session, "select sum(b), count(*) from t")
        assert first == [(ACCOUNTS * 100, ACCOUNTS)]
        whole = await rows(session, "select a, b from t order by a")
        for _ in range(rng.randrange(5)):
            await asyncio.sleep(0)
        assert await rows(session, "select a, b from t order by b, a") == sorted(
            whole, key=lambda row: (row[1], row[0])
        )
        await run(session, "commit")
        looks += 1
    return looks


async def harden(volume: LocalVolume, rng: random.Random, stop: asyncio.Event) -> None:
    """Commits become durable late, some at a time."""
    while not stop.is_set():
        for _ in range(rng.randrange(60)):
            await asyncio.sleep(0)
        behind = [mark for mark in volume.commits if mark.lsn > volume.vdl.lsn]
        if behind:
            volume.make_durable(rng.choice(behind))


@pytest.mark.parametrize("capacity", [1, 2, 7])
@pytest.mark.parametrize("seed", range(3))
async def test_tiny_pools_with_pinned_readers(capacity: int, seed: int) -> None:
    rng = random.Random(seed)
    volume = LocalVolume()
    first = volume.writer()
    session = first.session()
    await run(session, "create table t (a integer primary key, b int, c text)")
    await run(
        session,
        "insert into t " + BIG.format(ACCOUNTS) + "select x - 1, 100, hex(zeroblob(900)) from c",
    )
    await first.close()
    volume.on_durable.clear()
    writer = volume.writer(
        capacity=capacity, settings=SqlSettings(cache_pages=1, progress_steps=100)
    )
    replica, feed = volume.replica(capacity=capacity)
    volume.on_durable.append(lambda _mark: feed.catch_up())
    volume.hold()
    stop = asyncio.Event()
    durable = asyncio.ensure_future(harden(volume, rng, stop))
    readers = [
        asyncio.ensure_future(look(engine.session(), rng, stop))
        for engine in (writer, replica, writer, replica)
    ]
    writers = [transfers(writer.session(), rng, 15) for _ in range(3)]
    await asyncio.gather(*writers)
    stop.set()
    assert min(await asyncio.gather(*readers)) > 0
    await durable
    volume.make_durable()
    for engine in (writer, replica):
        assert engine.pool.images <= max(capacity, 64)
        assert engine.pool.min_pinned() == engine.pool.visible.lsn
        assert await rows(engine.session(), "pragma integrity_check") == [("ok",)]
        await engine.close()


async def test_write_skew_is_not_possible(engine: SqlEngine) -> None:
    """Two doctors, at least one on call: each reads both and takes off the other."""
    one, two = engine.session(), engine.session()
    await run(one, "create table d (name text, on_call int)")
    await run(one, "insert into d values ('a', 1), ('b', 1)")
    for session, name in ((one, "a"), (two, "b")):
        await run(session, "begin isolation level read committed")
        assert await rows(session, "select sum(on_call) from d") == [(2,)], name
    await run(one, "update d set on_call = 0 where name = 'a'")
    task = await parked(fails(two, "update d set on_call = 0 where name = 'b'"))
    await run(one, "commit")
    assert type(await task) is SerializationFailure
    assert await rows(one, "select sum(on_call) from d") == [(1,)]


async def test_ddl_rolls_back_like_everything_else(engine: SqlEngine) -> None:
    session, other = engine.session(), engine.session()
    await run(session, "create table t (a)")
    await run(session, "begin")
    await run(session, "savepoint s")
    await run(session, "alter table t add column b")
    await run(session, "create table u (x)")
    await run(session, "insert into u values (1)")
    assert await rows(session, "select * from u, t") == []
    assert (await fails(other, "select * from u")).sqlstate == "42P01"
    await run(session, "rollback to s")
    await run(session, "create table v (x)")
    assert (await session.prepare("select * from t")).columns[-1].name == "a"
    await run(session, "commit")
    names = await rows(other, "select name from sqlite_schema order by 1")
    assert names == [("t",), ("v",)]
    await run(session, "begin")
    await run(session, "drop table v")
    await run(session, "rollback")
    await run(session, "insert into v values (1)")
    assert await rows(other, "select x from v") == [(1,)]
