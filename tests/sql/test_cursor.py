from __future__ import annotations

import pytest

from engine.errors import SqlError
from engine.sql.connection import PORTION_BYTES
from engine.sql.cursor import PREFETCH, Cursor
from engine.sql.engine import SqlEngine
from engine.sql.session import Session
from engine.sql.statement import SqlValue
from tests.sql.client import fails, rows, run

NUMBERS = (
    "with recursive c(x) as (select 1 union all select x + 1 from c where x < $1) select x from c"
)


async def start(session: Session, sql: str, *params: SqlValue) -> Cursor:
    return await session.execute(await session.prepare(sql), params)


async def numbers(session: Session, upto: int) -> Cursor:
    return await start(session, NUMBERS, upto)


@pytest.mark.parametrize("portion", [1, 7, PREFETCH, PREFETCH + 1, 1000])
@pytest.mark.parametrize("total", [1, PREFETCH - 1, PREFETCH, PREFETCH + 1, 300])
async def test_rows_come_in_portions(session: Session, portion: int, total: int) -> None:
    cursor = await numbers(session, total)
    seen: list[object] = []
    while not cursor.done:
        part = await cursor.fetch(portion)
        assert len(part) == portion or cursor.done
        seen += [n for (n,) in part]
    assert seen == list(range(1, total + 1))
    assert cursor.tag == f"SELECT {total}"
    assert await cursor.fetch(portion) == []


async def test_zero_means_all(session: Session) -> None:
    cursor = await numbers(session, 500)
    assert len(await cursor.fetch(3)) == 3
    assert len(await cursor.fetch()) == 497
    assert cursor.done


async def test_an_unfinished_cursor_holds_its_read_point(engine: SqlEngine) -> None:
    session, other = engine.session(), engine.session()
    await run(session, "create table t(a)")
    await run(session, f"insert into t {NUMBERS}", 300)
    cursor = await start(session, "select a from t")
    await run(other, "delete from t")
    assert engine.pool.min_pinned() < engine.pool.visible.lsn
    assert len(await cursor.fetch()) == 300
    assert engine.pool.min_pinned() == engine.pool.visible.lsn


async def test_closing_gives_the_read_point_back(engine: SqlEngine) -> None:
    session = engine.session()
    await run(session, "create table t(a)")
    await run(session, f"insert into t {NUMBERS}", 300)
    cursor = await start(session, "select a from t")
    await run(engine.session(), "delete from t")
    await cursor.close()
    await cursor.close()
    assert engine.pool.min_pinned() == engine.pool.visible.lsn
    with pytest.raises(SqlError) as caught:
        await cursor.fetch()
    assert caught.value.sqlstate == "34000"


async def test_two_cursors_at_once_see_one_state(engine: SqlEngine) -> None:
    session = engine.session()
    await run(session, "create table t(a)")
    await run(session, f"insert into t {NUMBERS}", 300)
    first = await start(session, "select a from t")
    await run(engine.session(), "delete from t")
    second = await start(session, "select a from t")
    assert len(await second.fetch()) == len(await first.fetch()) == 300
    assert await rows(session, "select a from t") == []


async def test_a_write_closes_cursors_outside_a_transaction(session: Session) -> None:
    await run(session, "create table t(a)")
    cursor = await numbers(session, 300)
    await run(session, "insert into t values (1)")
    with pytest.raises(SqlError, match="closed"):
        await cursor.fetch()


async def test_inside_a_transaction_a_cursor_lives_beside_writes(session: Session) -> None:
    await run(session, "create table t(a)")
    await run(session, "begin")
    cursor = await numbers(session, 300)
    await run(session, "insert into t values (1)")
    assert len(await cursor.fetch(100)) == 100
    await run(session, "insert into t values (2)")
    assert len(await cursor.fetch()) == 200
    last = await numbers(session, 300)
    await run(session, "commit")
    with pytest.raises(SqlError, match="closed"):
        await last.fetch()
    assert await rows(session, "select count(*) from t") == [(2,)]


async def test_an_error_in_the_middle_fails_the_transaction(session: Session) -> None:
    await run(session, "begin")
    cursor = await start(
        session,
        "with recursive c(x) as (select 1 union all select x + 1 from c)"
        " select abs(-9223372036854775808 + 200 - min(x, 200)) from c",
    )
    with pytest.raises(SqlError) as caught:
        await cursor.fetch()
    assert caught.value.sqlstate == "22003"
    assert session.status == "E"
    assert (await fails(session, "select 1")).sqlstate == "25P02"


async def test_returned_rows_are_there_at_once(session: Session) -> None:
    await run(session, "create table t(a)")
    cursor = await start(session, f"insert into t {NUMBERS} returning a", 300)
    assert cursor.tag == "INSERT 0 300"
    assert len(await cursor.fetch(10)) == 10
    assert await rows(session, "select count(*) from t") == [(300,)]
    assert len(await cursor.fetch()) == 290


@pytest.mark.parametrize("size", [PORTION_BYTES // 3, 3 * PORTION_BYTES])
async def test_large_rows_come_few_at_a_time(session: Session, size: int) -> None:
    """A portion of 64 rows of 64 MB each would be 4 GB."""
    cursor = await start(
        session, NUMBERS.replace("select x from", "select x, $2 from"), 20, "x" * size
    )
    seen: list[object] = []
    while not cursor.done:
        part = await cursor.fetch(10)
        assert part or cursor.done
        assert sum(len(str(text)) for _, text in part[:-1]) < 2 * PORTION_BYTES + size
        assert len(part) <= 8
        seen += [n for n, _ in part]
    assert seen == list(range(1, 21))
