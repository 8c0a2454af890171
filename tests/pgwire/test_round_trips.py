"""Transactions that come whole: they share what becomes durable, and nothing is told too early.

The volume is held: nothing becomes durable before the test says so. The table has a CHECK, so an INSERT
is not one whose answer rests on nothing (`engine.sql.blind`).
"""

from __future__ import annotations

import asyncio

import pytest

from tests.pgwire.conftest import Connect, Served
from tests.pgwire.raw import (
    FLUSH,
    SYNC,
    TERMINATE,
    Raw,
    bind,
    execute,
    failure,
    kinds,
    parse,
    query,
    rows,
)

WIDE = "SELECT hex(zeroblob(50000))"
"""A row that is sent before anything else is read: larger than what is gathered."""


def statement(sql: str) -> tuple[bytes, bytes, bytes]:
    return parse(sql), bind(), execute()


def insert(number: int) -> tuple[bytes, bytes, bytes]:
    return statement(f"INSERT INTO t VALUES ({number})")


BEGIN, COMMIT, COUNT = map(statement, ("BEGIN", "COMMIT", "SELECT count(*) FROM t"))


async def farewell(client: Raw) -> tuple[str, str]:
    """Severity and SQLSTATE that the connection ends with. Before it comes what was said before the
    transaction wrote, and nothing that it wrote or read after."""
    replies = await client.until_closed()
    assert kinds(replies) in ("E", "CE", "12E", "12C12E", "12TE")
    return replies[-1].fields["S"], replies[-1].fields["C"]


@pytest.fixture
async def held(pg: Served, raw: Raw) -> Raw:
    """A client, a table `t`, and a commit that nobody may be told of yet."""
    await pg.sql("CREATE TABLE t (i INTEGER CHECK (i >= 0))")
    pg.volume.hold()
    raw.send(*insert(0), SYNC)
    await commits(pg, 1)
    return raw


async def commits(pg: Served, wanted: int) -> None:
    """Until so many are not durable."""
    async with asyncio.timeout(20):
        while sum(mark.lsn > pg.volume.vdl.lsn for mark in pg.volume.commits) < wanted:
            await asyncio.sleep(0)


async def silent(pg: Served, *clients: Raw) -> None:
    """Nothing comes to these. Whoever is asked meanwhile is answered, so it is not for want of time."""
    other = await Raw.start(pg.port)
    for _ in range(5):
        assert kinds(await other.query("SELECT 1")) == "TDCZ"
    await other.close()
    for client in clients:
        task = asyncio.ensure_future(client.reader.read(1))
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.wait({task})


async def test_whole_transactions_become_durable_together(
    pg: Served, held: Raw, connect: Connect
) -> None:
    clients = [await connect() for _ in range(3)]
    for number, client in enumerate(clients, 1):
        client.send(*BEGIN, *insert(number), *COUNT, *COMMIT, SYNC)
    await commits(pg, 1 + len(clients))
    await silent(pg, held, *clients)
    pg.volume.make_durable()
    for number, client in enumerate(clients, 1):
        replies = await client.until_ready()
        assert kinds(replies) == "12C12C12DC12CZ"
        assert rows(replies) == [(str(number + 1),)]


async def test_several_statements_of_one_query_do_so_too(
    pg: Served, held: Raw, connect: Connect
) -> None:
    clients = [await connect() for _ in range(3)]
    for client in clients:
        client.send(query("INSERT INTO t VALUES (1); SELECT count(*) FROM t"))
    await commits(pg, 1 + len(clients))
    await silent(pg, held, *clients)
    pg.volume.make_durable()
    found = [rows(await client.until_ready()) for client in clients]
    assert sorted(found) == [[("2",)], [("3",)], [("4",)]]


@pytest.mark.parametrize("early", [FLUSH, b"".join((*statement(WIDE), *COUNT))])
async def test_what_is_asked_for_early_waits_for_what_it_rests_on(
    pg: Served, held: Raw, connect: Connect, early: bytes
) -> None:
    client = await connect()
    client.send(*BEGIN, *insert(1), *COUNT, early)
    await silent(pg, held, client)
    pg.volume.make_durable()
    assert kinds(await client.until("D")) == "12C12C12D"


async def test_a_rollback_tells_what_was_read_as_late(
    pg: Served, held: Raw, connect: Connect
) -> None:
    client = await connect()
    client.send(*BEGIN, *insert(1), *COUNT, *statement("ROLLBACK"), SYNC)
    await silent(pg, held, client)
    pg.volume.make_durable()
    assert rows(await client.until_ready()) == [("2",)]


async def test_an_error_tells_as_much(pg: Served, held: Raw, connect: Connect) -> None:
    client = await connect()
    client.send(*BEGIN, *insert(1), *statement("INSERT INTO t VALUES (1, 2)"), *COMMIT, SYNC)
    await silent(pg, held, client)
    pg.volume.make_durable()
    replies = await client.until_ready()
    assert failure(replies) == "42601"


async def test_answers_that_can_never_be_given_are_not(
    pg: Served, held: Raw, connect: Connect
) -> None:
    client = await connect()
    client.send(*BEGIN, *insert(1), *COUNT, FLUSH)
    await silent(pg, held, client)
    pg.volume.fence()
    assert await farewell(client) == ("FATAL", "57P01")
    assert failure(await held.until_ready()) == "08007"


async def test_who_is_dismissed_hears_of_that_only(pg: Served, held: Raw, connect: Connect) -> None:
    client = await connect()
    client.send(*BEGIN, *insert(1), *COUNT, FLUSH)
    await silent(pg, held, client)
    await pg.server.dismiss("a test wants it")
    assert await farewell(client) == ("FATAL", "57P01")


async def test_a_client_that_leaves_does_not_keep_the_lock(
    pg: Served, held: Raw, connect: Connect
) -> None:
    client = await connect()
    client.send(*BEGIN, *insert(1), FLUSH)
    await silent(pg, held, client)
    assert pg.engine.lock.held
    await client.close()
    async with asyncio.timeout(20):
        while pg.engine.lock.held:
            await asyncio.sleep(0)


# -- a commit's outcome is told, whatever becomes of other answers


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param((*BEGIN, *insert(1), *COMMIT, SYNC), id="pipeline"),
        pytest.param((query("BEGIN; INSERT INTO t VALUES (1); COMMIT"),), id="query"),
        pytest.param((*statement("INSERT INTO t VALUES (1) RETURNING i"), SYNC), id="returning"),
    ],
)
@pytest.mark.parametrize("end", ["fence", "timeout", "cancel"])
async def test_an_unknown_outcome_is_told_as_such(
    pg: Served, held: Raw, connect: Connect, whole: tuple[bytes, ...], end: str
) -> None:
    client = await connect()
    if end == "timeout":
        await client.query("SET statement_timeout = '50ms'")
    client.send(*whole)
    await commits(pg, 2)
    if end == "fence":
        pg.volume.fence()
    elif end == "cancel":
        pg.server.cancel(client.pid, client.secret)
    assert await farewell(client) == ("FATAL", "08007")
    assert not pg.engine.lock.held


async def test_what_was_durable_is_told_though_what_came_with_it_is_lost(
    pg: Served, raw: Raw, connect: Connect
) -> None:
    await pg.sql("CREATE TABLE t (i INTEGER CHECK (i >= 0))")
    pg.volume.hold()
    client = await connect()
    client.send(*BEGIN, *insert(1), *COMMIT, SYNC, *BEGIN, *insert(2), *COUNT, FLUSH)
    await commits(pg, 1)
    raw.send(*insert(3), SYNC)  # waits for its turn, which comes before the second transaction's
    await commits(pg, 2)
    first = pg.volume.commits[-2]
    pg.volume.make_durable(first)
    await silent(pg, raw, client)
    await pg.server.dismiss("a test wants it")
    assert kinds(await client.until_closed()) == "12C12C12CZ" + "12C12" + "E"


async def test_who_cancels_an_answer_that_waits_is_told_so(
    pg: Served, held: Raw, connect: Connect
) -> None:
    client = await connect()
    client.send(*BEGIN, *insert(1), *COUNT, FLUSH)
    await silent(pg, held, client)
    pg.server.cancel(client.pid, client.secret)
    assert await farewell(client) == ("FATAL", "57014")
    assert not pg.engine.lock.held


async def test_who_says_goodbye_is_owed_nothing(
    pg: Served, held: Raw, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect()
    client.send(*BEGIN, *insert(1), TERMINATE)
    await silent(pg, held, client)
    pg.volume.fence()
    await client.until_closed()
    assert "a client's session failed" not in caplog.text
