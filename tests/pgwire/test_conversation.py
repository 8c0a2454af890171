"""Conversations message by message, and clients that misbehave."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.pgwire.conftest import Connect, Served
from tests.pgwire.raw import (
    SYNC,
    Raw,
    bind,
    cancel,
    close,
    describe,
    execute,
    kinds,
    parse,
    query,
    request,
    startup,
)


async def test_simple_queries(raw: Raw) -> None:
    assert kinds(await raw.query("SELECT 1 AS n, 'a' AS t")) == "TDCZ"
    assert kinds(await raw.query("")) == "IZ"
    assert kinds(await raw.query(" ; ; ")) == "IZ"
    assert kinds(await raw.query("SELEC")) == "EZ"
    assert kinds(await raw.query("SELECT 1; SELECT 2")) == "TDCTDCZ"


async def test_several_statements_in_one_query_are_one_transaction(raw: Raw) -> None:
    await raw.query("CREATE TABLE t (i INTEGER PRIMARY KEY)")
    replies = await raw.query(
        "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); INSERT INTO t VALUES (1)"
    )
    assert kinds(replies)[-2:] == "EZ"
    assert (await raw.query("SELECT count(*) FROM t"))[1].row == [b"0"]


async def test_an_error_skips_to_sync_and_undoes_the_batch(raw: Raw) -> None:
    await raw.query("CREATE TABLE t (i INTEGER PRIMARY KEY)")
    raw.send(
        parse("INSERT INTO t VALUES ($1)", "s", [23]),
        bind([b"1"], statement="s"),
        execute(),
        bind([b"1"], statement="s"),
        execute(),
        bind([b"2"], statement="s"),
        execute(),
        SYNC,
    )
    replies = await raw.until_ready()
    assert kinds(replies) == "12C2EZ"
    assert replies[-2].fields["C"] == "23505"
    assert (await raw.query("SELECT count(*) FROM t"))[1].row == [b"0"]


async def test_row_limits_suspend_a_portal(raw: Raw) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i FROM n"
    raw.send(parse(numbers), bind(), describe("P"), execute(rows_max=2), execute(rows_max=2))
    raw.send(execute(rows_max=2), close("P"), SYNC)
    assert kinds(await raw.until_ready()) == "12TDDsDDsDC3Z"


async def test_what_does_not_exist(raw: Raw) -> None:
    for message, state in [
        (bind(statement="nobody"), "26000"),
        (execute("nowhere"), "34000"),
        (describe("S", "nobody"), "26000"),
        (parse("SELECT 1; SELECT 2"), "42601"),
        (parse("SET a = 1; SELECT 2"), "42601"),
    ]:
        raw.send(message, SYNC)
        replies = await raw.until_ready()
        assert (kinds(replies), replies[0].fields["C"]) == ("EZ", state)
    assert kinds(await raw.query("SELECT 1")) == "TDCZ"


async def test_encryption_is_declined_and_the_client_goes_on(pg: Served) -> None:
    raw = await Raw.connect(pg.port)
    for code in (80877104, 80877103):
        raw.send(request(code))
        assert await raw.reader.readexactly(1) == b"N"
    raw.send(startup(user="me", database="main"))
    assert kinds(await raw.until_ready()).endswith("KZ")
    await raw.close()


async def test_an_unknown_database_is_refused(pg: Served) -> None:
    raw = await Raw.connect(pg.port)
    raw.send(startup(user="me", database="other"))
    replies = await raw.until_closed()
    assert replies[-1].fields["C"] == "3D000"
    await raw.close()


async def test_cancel_needs_the_right_secret(pg: Served, connect: Connect) -> None:
    raw = await connect()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    raw.send(query(endless))
    for secret in (raw.secret ^ 1, raw.secret):
        other = await Raw.connect(pg.port)
        other.send(cancel(raw.pid, secret))
        await other.until_closed()
        await other.close()
    replies = await raw.until_ready()
    assert replies[0].fields["C"] == "57014"


@pytest.mark.parametrize("seed", range(30))
async def test_garbage_ends_its_own_connection_only(pg: Served, raw: Raw, seed: int) -> None:
    rng = random.Random(seed)
    bad = await Raw.connect(pg.port)
    if seed % 2:
        bad.send(startup(user="me", database="main"))
        await bad.until_ready()
    garbage = rng.randbytes(rng.choice((1, 7, 64, 5000)))
    bad.send(garbage if seed % 3 else query("SELECT 1")[: rng.randrange(1, 8)])
    bad.writer.write_eof()
    async with asyncio.timeout(10):
        await bad.reader.read()
    await bad.close()
    assert kinds(await raw.query("SELECT 1")) == "TDCZ"


async def test_a_client_that_leaves_ends_what_it_ran(pg: Served, connect: Connect) -> None:
    leaving = await connect()
    leaving.send(
        query(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        )
    )
    await leaving.writer.drain()
    await leaving.close()
    async with asyncio.timeout(10):
        while pg.server.connections:
            await asyncio.sleep(0.01)
