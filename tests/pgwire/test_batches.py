"""Transactions that nobody began, errors that SQLite did not make, and what is promised before it runs."""

from __future__ import annotations

import asyncio
import struct

import pytest

from engine.pgwire import types as t
from tests.pgwire.conftest import Connect, Served, serve
from tests.pgwire.raw import (
    SYNC,
    Raw,
    bind,
    close,
    describe,
    execute,
    failure,
    kinds,
    parse,
    query,
    rows,
    startup,
)

NUMBERS = (
    "WITH RECURSIVE n(i) AS (SELECT $1 UNION ALL SELECT i + 1 FROM n WHERE i < $2) SELECT i FROM n"
)


@pytest.fixture
async def table(connect: Connect) -> Raw:
    raw = await connect()
    await raw.query("CREATE TABLE t (i INTEGER PRIMARY KEY, s TEXT)")
    return raw


async def count(raw: Raw) -> int:
    ((n,),) = rows(await raw.query("SELECT count(*) FROM t"))
    return int(n or 0)


def status(replies: list[object]) -> str:
    return replies[-1].body.decode()  # type: ignore[attr-defined]


# -- implicit transactions


async def test_two_portals_before_one_sync_are_one_transaction(table: Raw) -> None:
    table.send(
        parse("INSERT INTO t VALUES ($1, 'x')", "s", [t.INT8]),
        bind([b"1"], statement="s", portal="a"),
        bind([b"1"], statement="s", portal="b"),
        execute("a"),
        execute("b"),
        SYNC,
    )
    assert kinds(await table.until_ready()) == "122CEZ"
    assert await count(table) == 0


@pytest.mark.parametrize("sync_at_once", [True, False])
async def test_a_batch_is_durable_at_its_sync_whenever_that_comes(
    table: Raw, sync_at_once: bool
) -> None:
    batch = [parse("INSERT INTO t VALUES (1, 'x')"), bind(), describe("P"), execute()]
    if sync_at_once:
        table.send(*batch, SYNC)
    else:
        table.send(*batch)
        await table.writer.drain()
        await asyncio.sleep(0)
        table.send(SYNC)
    assert kinds(await table.until_ready()) == "12nCZ"
    assert await count(table) == 1


@pytest.mark.parametrize("sql", ["SAVEPOINT a", "RELEASE a", "ROLLBACK TO a"])
async def test_no_savepoints_in_an_implicit_transaction(pg: Served, table: Raw, sql: str) -> None:
    replies = await table.query(
        f"INSERT INTO t VALUES (1, 'x'); {sql}; INSERT INTO t VALUES (2, 'y')"
    )
    assert (failure(replies), status(replies)) == ("25P01", "I")
    table.send(parse("INSERT INTO t VALUES (1, 'x')"), bind(), execute())
    table.send(parse(sql), bind(), execute(), SYNC)
    replies = await table.until_ready()
    assert (failure(replies), status(replies)) == ("25P01", "I")
    assert await count(table) == 0
    assert not pg.engine.lock.held


async def test_begin_makes_the_implicit_transaction_the_clients(table: Raw) -> None:
    replies = await table.query(
        "INSERT INTO t VALUES (1, 'x'); BEGIN; INSERT INTO t VALUES (2, 'y')"
    )
    assert (kinds(replies), status(replies)) == ("CCCZ", "T")
    await table.query("ROLLBACK")
    assert await count(table) == 0
    table.send(parse("INSERT INTO t VALUES (1, 'x')"), bind(), execute())
    table.send(parse("BEGIN"), bind(), execute(), SYNC)
    assert (kinds(await table.until_ready())) == "12C12CZ"
    assert (await table.query("COMMIT"))[-1].body == b"I"
    assert await count(table) == 1


async def test_commit_in_the_middle_keeps_what_came_before(table: Raw) -> None:
    replies = await table.query(
        "INSERT INTO t VALUES (1, 'x'); COMMIT; INSERT INTO t VALUES (2, 'y'); SELECT nope"
    )
    assert status(replies) == "I"
    assert rows(await table.query("SELECT i FROM t")) == [("1",)]


async def test_the_last_statement_is_complete_only_after_the_commit(table: Raw) -> None:
    await table.query("CREATE TABLE c (i REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
    replies = await table.query("SELECT 1; INSERT INTO c VALUES (7)")
    assert kinds(replies) == "TDCEZ"
    assert failure(replies) == "23503"
    table.send(parse("SELECT 1"), bind(), execute())
    table.send(parse("INSERT INTO c VALUES (7)"), bind(), execute(), SYNC)
    assert kinds(await table.until_ready()) == "12DC12EZ"


async def test_truncate_is_undone_with_its_batch(table: Raw) -> None:
    await table.query("INSERT INTO t VALUES (1, 'x')")
    table.send(parse("TRUNCATE t"), bind(), execute())
    table.send(parse("SELECT nope"), bind(), execute(), SYNC)
    await table.until_ready()
    assert await count(table) == 1
    await table.query("TRUNCATE t")
    assert await count(table) == 0


@pytest.mark.parametrize("extended", [False, True])
async def test_a_returned_row_that_cannot_be_sent_undoes_its_statement(
    table: Raw, extended: bool
) -> None:
    """Else the client would take for failed what has been committed."""
    await table.query("CREATE TABLE b (l BOOLEAN)")
    sql = "INSERT INTO b VALUES (7) RETURNING l"
    if extended:
        table.send(parse(sql), bind(), execute(), SYNC)
        replies = await table.until_ready()
    else:
        replies = await table.query(sql)
    assert (failure(replies), status(replies)) == ("42804", "I")
    assert rows(await table.query("SELECT count(*) FROM b")) == [("0",)]
    sql = sql.replace("7", "1")
    if extended:
        table.send(parse(sql), bind(), describe("P"), execute(), SYNC)
        assert kinds(await table.until_ready()) == "12TDCZ"
    else:
        assert kinds(await table.query(sql)) == "TDCZ"
    assert rows(await table.query("SELECT count(*) FROM b")) == [("1",)]


# -- errors of the protocol's own


@pytest.mark.parametrize(
    ("messages", "state"),
    [
        ([query("COPY t FROM STDIN")], "0A000"),
        ([query("SHOW nothing_known")], "42704"),
        ([query("SELECT 7 AS b UNION ALL SELECT l FROM b")], "42804"),
        ([bind(statement="nobody"), SYNC], "26000"),
        ([execute("nowhere"), SYNC], "34000"),
        ([parse("SELECT $1", oids=[t.INT8]), bind([b"x"]), SYNC], "22P02"),
        ([parse("SELECT $1"), bind([b"x"], formats=[7]), SYNC], "08P01"),
        ([parse("SELECT $1"), bind(), SYNC], "08P01"),
    ],
)
async def test_every_error_fails_the_transaction_and_frees_the_lock(
    pg: Served, table: Raw, messages: list[bytes], state: str
) -> None:
    await table.query("CREATE TABLE b (l BOOLEAN)")
    await table.query("INSERT INTO b VALUES (7)")
    await table.query("BEGIN")
    await table.query("INSERT INTO t VALUES (1, 'x')")
    if state == "42804":
        messages = [query("SELECT l FROM b")]
    table.send(*messages)
    replies = await table.until_ready()
    assert (failure(replies), status(replies)) == (state, "E")
    assert not pg.engine.lock.held
    for sql in ("SELECT 1", "SHOW timezone", "SET a.b = 1", "SELECT version()", "TRUNCATE t"):
        assert failure(await table.query(sql)) == "25P02", sql
    assert (await table.query("COMMIT"))[-2].body == b"ROLLBACK\0"
    assert await count(table) == 0


async def test_a_savepoint_still_brings_it_back(table: Raw) -> None:
    await table.query("BEGIN; INSERT INTO t VALUES (1, 'x'); SAVEPOINT a")
    assert failure(await table.query("COPY t FROM STDIN")) == "0A000"
    assert kinds(await table.query("ROLLBACK TO a; COMMIT")) == "CCZ"
    assert await count(table) == 1


async def test_asking_for_types_fails_no_transaction(table: Raw) -> None:
    """A CTE's name, a table-valued function, an alias: none is a table, and that is no error."""
    await table.query("BEGIN; INSERT INTO t VALUES (1, 'x')")
    for sql in (
        "WITH c AS (SELECT i FROM t) SELECT i, $1 FROM c WHERE i = $2",
        "SELECT value, $1 FROM json_each($2)",
    ):
        table.send(parse(sql), describe("S"), SYNC)
        replies = await table.until_ready()
        assert (kinds(replies), status(replies)) == ("1tTZ", "T")
    await table.query("COMMIT")
    assert await count(table) == 1


# -- settings of a transaction


async def test_set_local_ends_with_its_transaction(table: Raw) -> None:
    await table.query("BEGIN")
    await table.query("SET LOCAL statement_timeout = '7s'")
    await table.query("SET LOCAL my.own = 'a'")
    assert rows(await table.query("SHOW statement_timeout")) == [("7s",)]
    await table.query("COMMIT")
    assert rows(await table.query("SHOW statement_timeout")) == [("30s",)]
    await table.query("SET LOCAL lock_timeout = '7s'")
    assert rows(await table.query("SHOW lock_timeout")) == [("0",)]


async def test_transactions_told_to_be_read_only(table: Raw) -> None:
    insert = "INSERT INTO t VALUES (1, 'x')"
    await table.query("BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY")
    assert failure(await table.query(insert)) == "25006"
    await table.query("ROLLBACK")
    await table.query("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
    assert failure(await table.query(insert)) == "25006"
    await table.query("BEGIN; SET TRANSACTION READ WRITE")
    assert kinds(await table.query(insert)) == "CZ"
    assert failure(await table.query("SET TRANSACTION READ ONLY")) == "25001"
    await table.query("ROLLBACK; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
    assert kinds(await table.query(insert)) == "CZ"


# -- promises


async def test_describe_of_everything(table: Raw) -> None:
    for sql, expected in [
        ("", "1tnZ"),
        ("SELECT 1", "1tTZ"),
        ("SELECT $1, i FROM t WHERE s = $2", "1tTZ"),
        ("INSERT INTO t VALUES ($1, $2)", "1tnZ"),
        ("INSERT INTO t VALUES ($1, $2) RETURNING *", "1tTZ"),
        ("CREATE TABLE u (a)", "1tnZ"),
        ("BEGIN", "1tnZ"),
        ("SET a.b = 1", "1tnZ"),
        ("SHOW timezone", "1tTZ"),
        ("EXPLAIN QUERY PLAN SELECT * FROM t", "1tTZ"),
        ("PRAGMA table_info(t)", "1tTZ"),
        ("VALUES (1), (2)", "1tTZ"),
    ]:
        table.send(parse(sql), describe("S"), SYNC)
        assert kinds(await table.until_ready()) == expected, sql
        parameters = 2 if "$2" in sql else 0
        table.send(parse(sql), bind([b"1", b"2"][:parameters]), describe("P"), SYNC)
        assert kinds(await table.until_ready()) == "12" + expected[2:], sql
    assert await count(table) == 0
    assert status(await table.query("SHOW a.b")) == "I"


async def test_portals_side_by_side_with_row_limits(table: Raw) -> None:
    await table.query("BEGIN")
    table.send(
        parse(NUMBERS, "n", [t.INT8, t.INT8]),
        bind([b"1", b"5"], statement="n", portal="a"),
        bind([b"10", b"900"], statement="n", portal="b"),
        execute("a", 2),
        execute("b", 3),
        execute("a", 2),
        SYNC,
    )
    replies = await table.until_ready()
    assert kinds(replies) == "122DDsDDDsDDsZ"
    assert [n for (n,) in rows(replies)] == ["1", "2", "10", "11", "12", "3", "4"]
    table.send(
        execute("a"), close("P", "a"), execute("b", 300), execute("b", 300), execute("b"), SYNC
    )
    replies = await table.until_ready()
    assert kinds(replies).replace("D", "") == "C3ssCZ"
    assert [n for (n,) in rows(replies)] == ["5", *map(str, range(13, 901))]
    await table.query("COMMIT")
    table.send(execute("b"), SYNC)
    assert failure(await table.until_ready()) == "34000"


async def test_a_column_of_several_types_is_text(table: Raw) -> None:
    mixed = """SELECT value FROM json_each('[1, "a", 2.5, null]')"""
    replies = await table.query(mixed)
    assert replies[0].columns == [("value", t.TEXT, 0)]
    assert rows(replies) == [("1",), ("a",), ("2.5",), (None,)]
    replies = await table.query("SELECT value FROM json_each('[1, 2.5]')")
    assert replies[0].columns == [("value", t.FLOAT8, 0)]


@pytest.mark.parametrize("other_session", [False, True])
async def test_a_prepared_statement_after_ddl(
    table: Raw, connect: Connect, other_session: bool
) -> None:
    other = await connect() if other_session else table
    table.send(parse("SELECT * FROM t", "all"), parse("SELECT i FROM t", "one"), SYNC)
    await table.until_ready()
    await other.query("ALTER TABLE t ADD COLUMN n INTEGER; INSERT INTO t VALUES (1, 'x', 2)")
    table.send(bind(statement="one"), execute(), SYNC)
    assert rows(await table.until_ready()) == [("1",)]
    table.send(bind(statement="all"), execute(), SYNC)
    assert failure(await table.until_ready()) == "0A000"
    await other.query("DROP TABLE t")
    table.send(bind(statement="one"), execute(), SYNC)
    assert failure(await table.until_ready()) == "42P01"


async def test_a_prepared_statement_on_a_replica_after_ddl_on_the_writer(
    pg: Served, table: Raw
) -> None:
    engine, feed = pg.volume.replica()
    feed.catch_up()
    replica = await serve(pg.volume, engine, in_recovery=True)
    raw = await Raw.start(replica.port)
    raw.send(parse("SELECT * FROM t", "all"), SYNC)
    assert kinds(await raw.until_ready()) == "1Z"
    assert rows(await raw.query("SHOW in_hot_standby; SELECT pg_is_in_recovery()")) == [
        ("on",),
        ("t",),
    ]
    await table.query("INSERT INTO t VALUES (1, 'x')")
    await table.query("ALTER TABLE t RENAME COLUMN s TO r")
    raw.send(bind(statement="all"), execute(), SYNC)
    assert rows(await raw.until_ready()) == []
    feed.catch_up()
    raw.send(bind(statement="all"), execute(), SYNC)
    assert failure(await raw.until_ready()) == "0A000"
    raw.send(parse("SELECT * FROM t"), bind(), execute(), SYNC)
    assert rows(await raw.until_ready()) == [("1", "x")]
    for sql in (
        "INSERT INTO t VALUES (2, 'y')",
        "BEGIN IMMEDIATE",
        "CREATE TABLE u (a)",
        "TRUNCATE t",
    ):
        assert failure(await raw.query(sql)) == "25006", sql
    await raw.close()
    await replica.server.stop()
    await engine.close()


async def test_a_newer_protocol_is_negotiated_down(pg: Served) -> None:
    raw = await Raw.connect(pg.port)
    raw.send(startup(version=196610, user="me", database="main", **{"_pq_.x": "1"}))
    replies = await raw.until_ready()
    assert replies[0] == ("v", struct.pack("!ii", 196608, 1) + b"_pq_.x\0")
    await raw.close()
