from __future__ import annotations

import pytest

from engine.errors import SqlError
from engine.sql.engine import SqlEngine, SqlSettings
from engine.sql.session import Session
from tests.sql.client import rows, run
from tests.sql.local_volume import LocalVolume


async def columns(session: Session, sql: str) -> list[str]:
    return [column.name for column in (await session.prepare(sql)).columns]


async def test_the_same_text_is_described_once(session: Session) -> None:
    await run(session, "create table t(a)")
    assert await session.prepare("select * from t") is await session.prepare("select * from t")
    assert await session.prepare("begin") is await session.prepare("begin")


@pytest.mark.parametrize("own", [True, False])
async def test_columns_follow_the_schema(engine: SqlEngine, own: bool) -> None:
    session = engine.session()
    other = session if own else engine.session()
    await run(session, "create table t(a)")
    assert await columns(session, "select * from t") == ["a"]
    await run(other, "alter table t add column b")
    assert await columns(session, "select * from t") == ["a", "b"]


async def test_columns_follow_changes_that_are_not_committed_and_rollback(session: Session) -> None:
    await run(session, "create table t(a)")
    assert await columns(session, "select * from t") == ["a"]
    await run(session, "begin")
    await run(session, "alter table t add column b")
    assert await columns(session, "select * from t") == ["a", "b"]
    await run(session, "rollback")
    assert await columns(session, "select * from t") == ["a"]
    await run(session, "begin")
    await run(session, "savepoint s")
    await run(session, "alter table t add column c")
    assert await columns(session, "select * from t") == ["a", "c"]
    await run(session, "rollback to s")
    assert await columns(session, "select * from t") == ["a"]


async def test_a_statement_whose_columns_changed_is_refused(engine: SqlEngine) -> None:
    session, other = engine.session(), engine.session()
    await run(session, "create table t(a)")
    statement = await session.prepare("select * from t")
    await run(other, "create table unrelated(x)")
    await session.execute(statement)
    await run(other, "alter table t add column b")
    with pytest.raises(SqlError, match="must not change result type") as caught:
        await session.execute(statement)
    assert caught.value.sqlstate == "0A000"
    assert await rows(session, "select * from t") == []


async def test_returning_is_checked_at_the_tip(volume: LocalVolume, engine: SqlEngine) -> None:
    session, other = engine.session(), engine.session()
    await run(session, "create table t(a)")
    statement = await session.prepare("insert into t(a) values (1) returning *")
    await run(other, "alter table t add column b")
    with pytest.raises(SqlError, match="must not change result type"):
        await session.execute(statement)
    assert await rows(session, "select count(*) from t") == [(0,)]
    assert not engine.lock.held


async def test_a_statement_survives_changes_that_do_not_concern_it(engine: SqlEngine) -> None:
    session, other = engine.session(), engine.session()
    await run(session, "create table t(a)")
    insert = await session.prepare("insert into t(a) values ($1)")
    select = await session.prepare("select a from t")
    for number in range(3):
        await run(other, f"alter table t add column c{number}")
        await session.execute(insert, (number,))
        cursor = await session.execute(select)
        assert len(await cursor.fetch()) == number + 1


async def test_a_dropped_table_is_noticed(engine: SqlEngine) -> None:
    session, other = engine.session(), engine.session()
    await run(session, "create table t(a)")
    statement = await session.prepare("select * from t")
    await run(other, "drop table t")
    with pytest.raises(SqlError) as caught:
        await session.execute(statement)
    assert caught.value.sqlstate == "42P01"


async def test_memory_is_bounded(volume: LocalVolume) -> None:
    engine = volume.writer(settings=SqlSettings(prepared_max=4))
    session = engine.session()
    for number in range(50):
        await session.prepare(f"select {number}")
    assert len(session._prepared._known) == 4
    await session.prepare("select '" + "x" * 20_000 + "'")
    assert len(session._prepared._known) == 4
    await engine.close()
