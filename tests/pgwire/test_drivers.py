"""The real drivers and tools against the server in this process: fast enough to try every corner.

`tests/e2e/test_clients.py` holds them to a whole cluster.
"""

from __future__ import annotations

import asyncio
import datetime
import math
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.pgwire.conftest import Served
from tests.pgwire.raw import Raw, rows

needs_psql = pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
needs_pgbench = pytest.mark.skipif(
    shutil.which("pgbench") is None, reason="pgbench is not installed"
)

TABLE = "CREATE TABLE t (i INTEGER, f REAL, s TEXT, b BLOB, l BOOLEAN, n NUMERIC)"
ROWS: list[tuple[Any, ...]] = [
    (2**63 - 1, 1.5, "é\U0001f600 \\ ' \" $1", b"\x00\xff\\x", True, Decimal("1.25")),
    (-(2**63), -0.0, "", b"", False, Decimal(-7)),
    (0, math.inf, "x" * 100_000, bytes(100_000), None, Decimal(10) ** 20),
    (None, -math.inf, None, None, None, None),
]


async def tool(*command: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(100):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


# -- psycopg


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("cursor", [psycopg.AsyncCursor, psycopg.AsyncRawCursor])
async def test_psycopg_values(pg: Served, cursor: Any, binary: bool) -> None:
    async with await psycopg.AsyncConnection.connect(pg.url, cursor_factory=cursor) as connection:
        await connection.execute(TABLE)
        marks = [f"${n}" if cursor is psycopg.AsyncRawCursor else "%s" for n in range(1, 7)]
        insert = f"INSERT INTO t VALUES ({', '.join(marks)})"
        for row in ROWS:
            await connection.execute(insert, row)
        found = await (await connection.execute("SELECT * FROM t", binary=binary)).fetchall()
        assert [row[:5] for row in found] == [row[:5] for row in ROWS]
        assert [row[5] for row in found] == [row[5] for row in ROWS]
        with pytest.raises(psycopg.errors.NumericValueOutOfRange):
            await connection.execute(f"SELECT {marks[0]}", (math.nan,))


async def test_psycopg_prepares_and_notices_ddl(pg: Served) -> None:
    async with await psycopg.AsyncConnection.connect(pg.url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE t (i INTEGER PRIMARY KEY)")
        for n in range(10):
            await connection.execute("INSERT INTO t VALUES (%s)", (n,), prepare=True)
        select = "SELECT * FROM t WHERE i = %s"
        await (await connection.execute(select, (3,), prepare=True)).fetchall()
        async with await psycopg.AsyncConnection.connect(pg.url, autocommit=True) as other:
            await other.execute("ALTER TABLE t ADD COLUMN s TEXT DEFAULT 'x'")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan"):
            await connection.execute(select, (3,), prepare=True)
        await connection.execute("DEALLOCATE ALL")
        assert await (await connection.execute("SELECT * FROM t WHERE i = 3")).fetchall() == [
            (3, "x")
        ]


async def insert_all(connection: psycopg.AsyncConnection[Any], numbers: tuple[int, ...]) -> None:
    async with connection.pipeline():
        for n in numbers:
            await connection.execute("INSERT INTO t VALUES (%s)", (n,))


async def test_psycopg_pipelines_and_their_errors(pg: Served) -> None:
    async with await psycopg.AsyncConnection.connect(pg.url) as connection:
        await connection.execute("CREATE TABLE t (i INTEGER PRIMARY KEY)")
        await connection.commit()
        async with connection.pipeline():
            cursors = [
                await connection.execute("INSERT INTO t VALUES (%s) RETURNING i", (n,))
                for n in range(50)
            ]
            assert [(await c.fetchone())[0] for c in cursors] == list(range(50))  # type: ignore[index]
            async with connection.transaction():
                await connection.execute("UPDATE t SET i = i + 1000")
        await connection.commit()
        with pytest.raises(psycopg.errors.UniqueViolation):
            await insert_all(connection, (1, 1000, 2))
        await connection.rollback()
        found = await connection.execute("SELECT count(*), min(i) FROM t")
        assert await found.fetchone() == (50, 1000)
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            async with connection.cursor().copy("COPY t FROM STDIN") as copy:
                await copy.write("1\n")
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        await connection.rollback()


# -- asyncpg


async def test_asyncpg_values(pg: Served) -> None:
    connection = await asyncpg.connect(pg.url)
    await connection.execute(TABLE)
    await connection.executemany("INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6)", ROWS)
    found = [tuple(row) for row in await connection.fetch("SELECT * FROM t")]
    assert found == ROWS
    with pytest.raises(asyncpg.exceptions.DataError):
        await connection.fetch("SELECT * FROM t WHERE i = $1", 2**63)
    with pytest.raises(asyncpg.exceptions.NumericValueOutOfRangeError):
        await connection.execute("INSERT INTO t (f) VALUES ($1)", math.nan)
    await connection.execute("CREATE TABLE d (d DATE, at TIMESTAMP, z TIMESTAMPTZ)")
    moment = datetime.datetime(2024, 2, 29, 23, 59, 59, 999999)  # noqa: DTZ001 - without a zone
    row = (moment.date(), moment, moment.replace(tzinfo=datetime.UTC))
    await connection.execute("INSERT INTO d VALUES ($1, $2, $3)", *row)
    assert tuple(await connection.fetchrow("SELECT * FROM d")) == row
    await connection.close()


async def test_asyncpg_transactions_types_and_ddl(pg: Served) -> None:
    connection, other = await asyncpg.connect(pg.url), await asyncpg.connect(pg.url)
    await connection.execute("CREATE TABLE t (i INTEGER PRIMARY KEY)")
    async with connection.transaction(isolation="serializable"):
        assert await connection.fetchval("INSERT INTO t VALUES ($1) RETURNING i", 1) == 1
        with_cte = (
            "WITH c AS (SELECT i FROM t) SELECT count(*) FROM c WHERE i = CAST($1 AS INTEGER)"
        )
        assert await connection.fetchval(with_cte, 1) == 1
        with pytest.raises(asyncpg.UniqueViolationError):
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES ($1)", 1)
        seen = [row["i"] async for row in connection.cursor("SELECT i FROM t", prefetch=1)]
        assert seen == [1]
    prepared = await connection.prepare("SELECT * FROM t")
    assert len(await prepared.fetch()) == 1
    await other.execute("ALTER TABLE t ADD COLUMN s TEXT")
    assert [tuple(r) for r in await connection.fetch("SELECT * FROM t")] == [(1, None)]
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        async with connection.transaction(readonly=True):
            await connection.execute("INSERT INTO t VALUES (2, 'x')")
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await connection.copy_records_to_table("t", records=[(5, "x")])
    await connection.reset()
    await asyncio.gather(connection.close(), other.close())


async def test_asyncpg_cancels_and_pools(pg: Served) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    async with asyncpg.create_pool(pg.url, min_size=2, max_size=5) as pool:
        await pool.execute("CREATE TABLE t (i INTEGER)")
        with pytest.raises(TimeoutError):
            await pool.fetch(endless, timeout=0.2)
        with pytest.raises(TimeoutError):
            await pool.fetch(endless.replace("max(i)", "i"), timeout=0.2)
        await asyncio.gather(*[pool.execute("INSERT INTO t VALUES ($1)", n) for n in range(50)])
        assert await pool.fetchval("SELECT count(*) FROM t") == 50
    assert pg.engine.pool.min_pinned() == pg.engine.pool.visible.lsn


# -- psql, pgbench


@needs_psql
@pytest.mark.parametrize(
    "command", [r"\d", r"\dt", r"\d t", r"\l", r"\du", r"\df", r"\copy t from /dev/null"]
)
async def test_psql_commands_that_need_a_catalog_fail_cleanly(pg: Served, command: str) -> None:
    code, out, err = await tool(
        "psql",
        "-X",
        "-A",
        "-t",
        pg.url,
        "-c",
        "CREATE TABLE t (i)",
        "-c",
        command,
        "-c",
        "SELECT 'on'",
    )
    assert code == 0, err
    assert out.splitlines()[-1] == "on"
    assert "ERROR:" in err, (out, err)
    assert "server closed" not in err


@needs_psql
async def test_psql_scripts_stop_where_they_fail(pg: Served, tmp_path: Path) -> None:
    script = tmp_path / "script.sql"
    script.write_text(
        "BEGIN;\nCREATE TABLE t (i);\nINSERT INTO t VALUES (1);\nCOMMIT;\nSELEC;\nSELECT 1;\n"
    )
    code, _, err = await tool(
        "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", pg.url, "-f", str(script)
    )
    assert code == 3
    assert "syntax error" in err
    code, out, _ = await tool(
        "psql", "-X", "-A", "-t", "-1", pg.url, "-c", "SELECT count(*) FROM t"
    )
    assert (code, out) == (0, "1\n")


PGBENCH = """
CREATE TABLE pgbench_branches (bid INTEGER PRIMARY KEY, bbalance INTEGER, filler TEXT);
CREATE TABLE pgbench_tellers (tid INTEGER PRIMARY KEY, bid INTEGER, tbalance INTEGER, filler TEXT);
CREATE TABLE pgbench_accounts (aid INTEGER PRIMARY KEY, bid INTEGER, abalance INTEGER, filler TEXT);
CREATE TABLE pgbench_history (
    tid INTEGER, bid INTEGER, aid INTEGER, delta INTEGER, mtime TIMESTAMP, filler TEXT
);
INSERT INTO pgbench_branches VALUES (1, 0, '');
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10)
    INSERT INTO pgbench_tellers SELECT i, 1, 0, '' FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
    INSERT INTO pgbench_accounts SELECT i, 1, 0, '' FROM n;
"""
CUSTOM = r"""
\set a random(1, 100000)
BEGIN;
SELECT abalance FROM pgbench_accounts WHERE aid = :a \gset
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :a;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :a, 1, CURRENT_TIMESTAMP);
END;
"""


@needs_pgbench
@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
async def test_pgbench_in_every_mode_with_many_clients(
    pg: Served, tmp_path: Path, mode: str
) -> None:
    await pg.sql(PGBENCH)
    custom = tmp_path / "custom.sql"
    custom.write_text(CUSTOM)
    common = ("pgbench", "-n", "-M", mode, "-c", "20", "-j", "2")
    for options in (
        ["-s", "1", "-t", "10"],
        ["-s", "1", "-t", "10", "-N"],
        ["-s", "1", "-t", "10", "-S"],
        ["-f", str(custom), "-T", "1", "--max-tries=0"],  # reads, then writes: 40001 is retried
    ):
        code, out, err = await tool(*common, *options, pg.url)
        assert code == 0, out + err
        assert "number of failed transactions: 0 (" in out, out
    raw = await Raw.start(pg.port)
    sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)"
    assert rows(await raw.query(sums)) == [("1",)]
    await raw.close()
