"""What any client may send and must not be able to do: hang the loop, crash, or eat the memory."""

from __future__ import annotations

import asyncio

import pytest

from engine.pgwire import types as t
from engine.pgwire import wire
from engine.pgwire.casts import without_casts
from engine.pgwire.infer import infer
from engine.pgwire.utility import Settings, answer, statements
from engine.sql.settings import SessionSettings
from tests.pgwire.conftest import Connect, Served, serve
from tests.pgwire.raw import (
    SYNC,
    Raw,
    bind,
    cancel,
    describe,
    execute,
    failure,
    frame,
    kinds,
    parse,
    query,
    rows,
)
from tests.sql.local_volume import LocalVolume

ROWS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, hex(zeroblob(500)) FROM n"
"""Endless, and every row is sent at once."""


# -- the loop goes on


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"])
async def test_a_bad_length_behind_a_write_does_not_hang_the_loop(
    pg: Served, connect: Connect, length: bytes
) -> None:
    bad, good = await connect(), await connect()
    await good.query("CREATE TABLE t (i INTEGER)")
    bad.send(parse("INSERT INTO t VALUES (1)"), bind(), execute(), b"E" + length)
    assert failure(await bad.until_closed()) == "08P01"
    assert rows(await good.query("SELECT count(*) FROM t")) == [("0",)]


def test_long_texts_are_looked_at_once() -> None:
    """Each of these took minutes or more: quadratic, cubic."""
    settings = Settings(SessionSettings(30, 0), False, "main", "me", SessionSettings(30, 0))
    blanks = " " * 200_000
    assert answer(f"SELECT a{blanks}x", settings) is None
    with pytest.raises(Exception, match="invalid value"):
        answer(f"SET lock_timeout = '1{blanks}x'", settings)
    casts = ", ".join(["($1::int, f(a)::text)"] * 20_000)
    assert without_casts(casts).count("CAST(") == 40_000
    assert (
        len(list(statements("INSERT INTO t VALUES " + "(1, 'x')," * 200_000 + "(1);SELECT 1"))) == 2
    )


async def test_a_long_statement_is_not_parsed_for_types() -> None:
    async def column_types(table: str) -> None:
        raise AssertionError("nobody asks")

    assert (await infer("SELECT $1 + 1" + " + 1" * 10_000, column_types)).parameters == {}


@pytest.mark.parametrize(
    "sql", ["SELECT 1; SELECT 2; " + "-" * 9_000_000, "SELECT 1 -- " + "-" * 9_000_000]
)
async def test_a_query_beyond_the_limit_is_refused(connect: Connect, sql: str) -> None:
    raw = await connect()
    assert failure(await raw.query(sql)) == "54000"
    raw.send(parse(sql), SYNC)
    assert failure(await raw.until_ready()) == "54000"
    assert kinds(await raw.query("SELECT 1")) == "TDCZ"


# -- the session goes on


async def test_text_that_is_no_utf8_is_an_error_of_its_statement(connect: Connect) -> None:
    raw = await connect()
    assert failure(await raw.query("SELECT CAST(x'ff' AS TEXT)")) == "22021"
    raw.send(frame(b"Q", b"SELECT '\xff'\0"))
    assert failure(await raw.until_ready()) == "22021"
    raw.send(frame(b"P", b"\0SELECT '\xff'\0\0\0"), bind(), execute(), SYNC)
    assert failure(await raw.until_ready()) == "22021"
    raw.send(parse("SELECT $1", oids=[t.TEXT]), bind([b"\xff"]), execute(), SYNC)
    assert failure(await raw.until_ready()) == "22021"
    assert kinds(await raw.query("SELECT 1")) == "TDCZ"


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize(
    ("stored", "state"),
    [
        ("1_0e999999999", "42804"),
        ("9" * 200_000, "22003"),
        ("0." + "1" * 20_000, "22003"),
        ("\u0661", "42804"),
    ],
    ids=["exponent", "digits", "places", "arabic"],
)
async def test_what_is_no_numeric_is_an_error(
    connect: Connect, stored: str, state: str, code: int
) -> None:
    """A column that is announced as numeric, by a view, and holds text all the same."""
    raw = await connect()
    await raw.query("CREATE TABLE b (n NUMERIC)")
    await raw.query("CREATE TABLE c (n TEXT)")
    await raw.query(f"INSERT INTO c VALUES ('{stored}')")
    assert (
        kinds(await raw.query("CREATE VIEW v AS SELECT n FROM c UNION ALL SELECT n FROM b")) == "CZ"
    )
    raw.send(parse("SELECT n FROM v"), bind(results=[code]), describe("P"), execute(), SYNC)
    replies = await raw.until_ready()
    assert replies[2].columns == [("n", t.NUMERIC, code)]
    assert failure(replies) == state
    assert kinds(await raw.query("SELECT 1")) == "TDCZ"


async def test_a_time_out_of_range_is_an_error(connect: Connect) -> None:
    raw = await connect()
    await raw.query("CREATE TABLE t (d TIMESTAMPTZ)")
    await raw.query("INSERT INTO t VALUES ('0001-01-01T00:00:00+05:00')")
    raw.send(parse("SELECT d FROM t"), bind(results=[1]), execute(), SYNC)
    assert failure(await raw.until_ready()) == "22008"


async def test_a_timeout_out_of_range_is_an_error(connect: Connect) -> None:
    raw = await connect()
    assert failure(await raw.query(f"SET statement_timeout = {'9' * 400}")) == "22023"
    assert failure(await raw.query("SET lock_timeout = '1000d'")) == "22023"
    assert rows(await raw.query("SHOW statement_timeout")) == [("30s",)]


async def test_a_wide_row_and_a_long_value(connect: Connect) -> None:
    raw = await connect()
    names = ", ".join(f"{n} AS c{n}" for n in range(2000))
    assert len(rows(await raw.query(f"SELECT {names}"))[0]) == 2000
    assert failure(await raw.query(f"SELECT {names}, 1")) == "54000"
    assert len((await raw.query("SELECT zeroblob(5000000) AS b"))[1].body) > 10_000_000
    assert failure(await raw.query("SELECT zeroblob(100000000) AS b")) == "54000"
    value = b"x" * 3_000_000
    raw.send(parse("SELECT length($1)", oids=[t.TEXT]), bind([value]), execute(), SYNC)
    assert rows(await raw.until_ready()) == [("3000000",)]


async def test_text_with_zero_bytes_comes_back_whole(connect: Connect) -> None:
    raw = await connect()
    raw.send(parse("SELECT $1", oids=[t.TEXT]), bind([b"a\0b"]), execute(), SYNC)
    assert rows(await raw.until_ready()) == [("a\0b",)]


# -- memory


async def test_pipelined_answers_do_not_pile_up(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte of short requests asks for gigabytes of answers."""
    raw = await connect()
    columns = ", ".join(f"1 AS {'c' * 60}{n}" for n in range(1000))
    raw.send(parse(f"SELECT {columns}", "wide"), SYNC)
    await raw.until_ready()
    write, highest = wire.Wire.write, 0

    def watched(self: wire.Wire, data: bytes) -> None:
        nonlocal highest
        write(self, data)
        highest = max(highest, self._out_bytes)

    monkeypatch.setattr(wire.Wire, "write", watched)
    raw.send(describe("S", "wide") * 200, SYNC)
    replies = await raw.until_ready()
    size = max(len(reply.body) for reply in replies)
    assert sum(reply.kind == "T" for reply in replies) == 200
    assert size < highest < wire.WRITE_BYTES + 2 * size


async def test_portals_are_bounded(connect: Connect) -> None:
    raw = await connect()
    raw.send(query("BEGIN"), parse("SELECT 1"), *[bind(portal=f"p{n}") for n in range(1001)], SYNC)
    await raw.until_ready()
    assert failure(await raw.until_ready()) == "53400"


# -- ends of things


@pytest.mark.parametrize("extended", [False, True])
async def test_cancel_reaches_a_query_whose_client_is_slow_to_read(
    pg: Served, connect: Connect, extended: bool
) -> None:
    raw, other = await connect(), await connect()
    raw.send(*([parse(ROWS), bind(), execute(), SYNC] if extended else [query(ROWS)]))
    await raw.reply()
    (served, _) = pg.server._clients.values()
    async with asyncio.timeout(20):
        while served._writable.is_set():
            await asyncio.sleep(0.001)
    assert pg.engine.pool.min_pinned() >= 0
    other.send(query("SELECT 1"))
    pg.server.cancel(raw.pid, raw.secret)
    assert failure(await raw.until_ready()) == "57014"
    assert kinds(await raw.query("SELECT 1")) == "TDCZ"


async def test_the_statement_timeout_counts_all_portions_of_a_result(connect: Connect) -> None:
    raw = await connect()
    await raw.query("SET statement_timeout = '300ms'")
    assert failure(await raw.query(ROWS)) == "57014"
    await raw.query("BEGIN")
    assert failure(await raw.query(ROWS)) == "57014"
    assert (await raw.query("SELECT 1"))[-1].body == b"E"


async def test_stopping_does_not_wait_for_a_client_that_does_not_read(
    pg: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.pgwire.server.GOODBYE_S", 0.05)
    raw = await connect()
    raw.send(query(ROWS))
    (served,) = pg.server._clients.values()
    async with asyncio.timeout(20):
        while served._writable.is_set():
            await asyncio.sleep(0.001)
        await pg.server.stop()
    assert pg.server.connections == 0


async def test_who_was_dismissed_and_does_not_read_takes_nobodys_place(
    volume: LocalVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.pgwire.server.GOODBYE_S", 20.0)
    pg = await serve(volume, volume.writer(), sessions_max=1)
    slow = await Raw.start(pg.port)
    slow.send(query(ROWS))
    (served,) = pg.server._clients.values()
    async with asyncio.timeout(20):
        while served._writable.is_set():
            await asyncio.sleep(0.001)
    dismissing = asyncio.create_task(pg.server.dismiss("this replica becomes the writer"))
    await asyncio.sleep(0)
    assert (pg.server.connections, len(pg.server._clients)) == (0, 1)
    after = await Raw.start(pg.port)
    assert rows(await after.query("SELECT 1")) == [("1",)]
    assert not dismissing.done()
    served.abort()
    await dismissing
    assert rows(await after.query("SELECT 2")) == [("2",)], "it came later"
    await pg.server.stop()
    await slow.close()
    await after.close()
    await pg.engine.close()


async def test_dismissing_a_client_that_is_held_ends(
    pg: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.pgwire.server.GOODBYE_S", 0.05)
    await connect()
    pg.server.hold_clients(True)
    async with asyncio.timeout(20):
        await pg.server.dismiss("this replica becomes the writer")
    assert pg.server.connections == 0


@pytest.mark.parametrize("commit", ["INSERT INTO t VALUES (1)", "COMMIT"])
async def test_stopping_tells_who_waits_for_a_commit_that_its_outcome_is_unknown(
    pg: Served, connect: Connect, commit: str
) -> None:
    """57P01 would be taken for "nothing is there, run it again", and the commit may be durable yet."""
    committing, idle, writing = await connect(), await connect(), await connect()
    await committing.query("CREATE TABLE t (i INTEGER CHECK (i > 0))")
    if commit == "COMMIT":
        await committing.query("BEGIN")
        await committing.query("INSERT INTO t VALUES (1)")
    pg.volume.hold()
    committing.send(query(commit))
    async with asyncio.timeout(20):
        while not pg.volume.waiting:
            await asyncio.sleep(0.001)
        writing.send(query("BEGIN IMMEDIATE"), query("INSERT INTO t VALUES (2)"))
        while pg.volume.waiting < 2:  # its result rests on a commit that is not durable
            await asyncio.sleep(0.001)
        await pg.server.stop()
    assert failure(await committing.until_closed()) == "08007"
    assert failure(await writing.until_closed()) == "57P01"
    assert failure(await idle.until_closed()) == "57P01"


async def test_a_client_that_leaves_in_a_transaction_frees_the_lock(
    pg: Served, connect: Connect
) -> None:
    leaving, other = await connect(), await connect()
    await other.query("CREATE TABLE t (i INTEGER)")
    await leaving.query("BEGIN IMMEDIATE")
    await leaving.query("INSERT INTO t VALUES (1)")
    waiting = asyncio.ensure_future(other.query("INSERT INTO t VALUES (2)"))
    leaving.writer.transport.abort()
    assert kinds(await waiting) == "CZ"
    assert rows(await other.query("SELECT i FROM t")) == [("2",)]


async def test_copy_data_of_a_refused_copy_is_ignored(connect: Connect) -> None:
    raw = await connect()
    raw.send(query("COPY t FROM STDIN"), frame(b"d", b"1\n"), frame(b"c"), query("SELECT 1"))
    assert failure(await raw.until_ready()) == "0A000"
    assert kinds(await raw.until_ready()) == "TDCZ"
    raw.send(frame(b"F", b"anything"))
    assert failure(await raw.until_ready()) == "0A000"
    raw.send(frame(b"p", b"secret\0"))
    assert failure(await raw.until_closed()) == "08P01"


async def test_a_key_is_of_one_session(pg: Served, connect: Connect) -> None:
    raw = await connect()
    pg.server.cancel(raw.pid + 1, raw.secret)
    assert kinds(await raw.query("SELECT 1")) == "TDCZ"
    assert cancel(raw.pid, raw.secret)
