from __future__ import annotations

import pytest

from engine.errors import QuorumLost, SqlError
from engine.sql.errors import as_sql_error
from engine.sql.session import Session
from tests.sql.client import fails, run

SCHEMA = """
create table t(a integer primary key, b text not null unique check (length(b) < 5), c int references t);
create table s(a int, b text) strict;
create table w(k primary key) without rowid;
insert into w values (1);
create view v as select 1 as one;
create trigger r before insert on s when new.a = 13 begin select raise(abort, 'unlucky'); end;
insert into t values (1, 'x', null);
"""


@pytest.fixture
async def schema(session: Session) -> Session:
    rest = SCHEMA
    while rest:
        statement = await session.prepare(rest)
        await session.execute(statement)
        rest = statement.tail
    return session


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("insert into t values (1, 'y', null)", "23505"),
        ("insert into t values (2, 'x', null)", "23505"),
        ("insert into w values (1)", "23505"),
        ("insert into t values (2, null, null)", "23502"),
        ("insert into t values (2, 'xxxxxxxx', null)", "23514"),
        ("insert into t values (2, 'z', 77)", "23503"),
        ("insert into s values ('x', 'y')", "42804"),
        ("insert into t values ('x', 'y', 1)", "42804"),
        ("insert into s values (13, 'x')", "P0001"),
        ("select * from nope", "42P01"),
        ("drop table nope", "42P01"),
        ("drop index nope", "42P01"),
        ("analyze nope", "42P01"),
        ("reindex nope", "42P01"),
        ("select nope from t", "42703"),
        ("insert into t(nope) values (1)", "42703"),
        ("update t set nope = 1", "42703"),
        ("create index i on t(nope)", "42703"),
        ("create table t(a)", "42P07"),
        ("create view t as select 1", "42P07"),
        ("create index t on t(a)", "42P07"),
        ("create table z(a, a)", "42701"),
        ("select a from t x, t y", "42702"),
        ("selec 1", "42601"),
        ("select 1 +", "42601"),
        ("select 'abc", "42601"),
        ("insert into t values (1)", "42601"),
        ("select 1 union select 1, 2", "42601"),
        ("select foo(1)", "42883"),
        ("select abs(1, 2)", "42883"),
        ("select 'a' = 'b' collate nope", "42704"),
        ("insert into v values (1)", "42809"),
        ("select sum(count(*)) from t", "42803"),
        ("select abs(-9223372036854775808)", "22003"),
        ("select json('{')", "22P02"),
        ("select ?99999", "42P02"),
        ("create table sqlite_x(a)", "42939"),
    ],
)
async def test_sqlstates(schema: Session, sql: str, sqlstate: str) -> None:
    error = await fails(schema, sql)
    assert error.sqlstate == sqlstate, str(error)


@pytest.mark.parametrize(
    ("sql", "position"),
    [
        ("selec 1", 1),
        ("select nope from t", 8),
        ("select 'é', nope from t", 13),
        ("select $1, '$1', nope from t", 18),
        ("select * from nope", 0),
    ],
)
async def test_positions_count_characters_of_the_clients_text(
    schema: Session, sql: str, position: int
) -> None:
    assert (await fails(schema, sql)).position == position


async def test_the_wrong_number_of_parameters(schema: Session) -> None:
    assert (await fails(schema, "select $1")).sqlstate == "08P01"


async def test_text_that_is_no_utf8(schema: Session) -> None:
    assert (await fails(schema, "select $1", "\ud800")).sqlstate == "22021"
    assert (await fails(schema, "select '\ud800'")).sqlstate == "22021"


def test_errors_from_below_keep_their_sqlstate() -> None:
    error = as_sql_error(QuorumLost("nobody answers"))
    assert (type(error), error.sqlstate, str(error)) == (SqlError, "57P03", "nobody answers")


def test_a_bug_stays_a_bug() -> None:
    with pytest.raises(ZeroDivisionError):
        as_sql_error(ZeroDivisionError())


async def test_errors_of_the_volume_reach_the_client(schema: Session) -> None:
    await run(schema, "select 1")
    pool = schema._pool
    volume = pool._source
    volume.failure = QuorumLost("nobody answers")  # type: ignore[attr-defined]
    pool.reset(pool.visible)
    error = await fails(schema, "select * from t")
    assert (error.sqlstate, str(error)) == ("57P03", "nobody answers")
    volume.failure = None  # type: ignore[attr-defined]
    await run(schema, "select * from t")
