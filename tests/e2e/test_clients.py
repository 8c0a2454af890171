"""The real clients, against a real cluster: psql, psycopg, asyncpg with its pool, pgbench."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading

import asyncpg
import psycopg
import pytest

pytestmark = pytest.mark.e2e


def runs(program: str) -> bool:
    """Debian's postgresql-client has a wrapper for pgbench and not always the program behind it."""
    if shutil.which(program) is None:
        return False
    return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0


needs_psql = pytest.mark.skipif(not runs("psql"), reason="psql is not installed")
needs_pgbench = pytest.mark.skipif(not runs("pgbench"), reason="pgbench is not installed")

PGBENCH_TABLES = """
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

PIPELINE = r"""
\set aid random(1, 100000)
\set delta random(-5000, 5000)
\startpipeline
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :aid, :delta, CURRENT_TIMESTAMP);
END;
\endpipeline
"""


@needs_psql
def test_psql_creates_inserts_selects_and_the_reader_shows_it(cluster):
    script = (
        "CREATE TABLE p (id INTEGER PRIMARY KEY, t TEXT); INSERT INTO p (t) VALUES ('a'), (NULL);"
    )
    done = psql(cluster.url(), script + "SELECT * FROM p;")
    assert done.stdout.splitlines()[-2:] == ["1|a", "2|"]
    cluster.until_sql("SELECT count(*) FROM p", [(2,)], reader=True)
    refused = psql(cluster.url(reader=True), "INSERT INTO p (t) VALUES ('b')", check=False)
    assert "read-only transaction" in refused.stderr
    wrong = psql(cluster.url(), "SELEC 1", check=False)
    assert "syntax error" in wrong.stderr


def psql(url, sql, *, check=True):
    command = ["psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", url, "-c", sql]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def test_psycopg_types_transactions_and_states(cluster):
    values = (7, 2.5, "é\U0001f600", b"\x00\xff", True, None)
    with psycopg.connect(cluster.url()) as connection:
        connection.execute("CREATE TABLE q (i INTEGER, f REAL, t TEXT, b BLOB, l BOOLEAN, n TEXT)")
        connection.commit()
        connection.execute("INSERT INTO q VALUES (%s, %s, %s, %s, %s, %s)", values)
        assert connection.execute("SELECT * FROM q").fetchone() == values
        assert connection.cursor(binary=True).execute("SELECT * FROM q").fetchone() == values
        connection.rollback()
        assert connection.execute("SELECT count(*) FROM q").fetchone() == (0,)
        connection.rollback()
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM missing")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()
        with connection.transaction(), connection.transaction() as inner:
            connection.execute("INSERT INTO q (i) VALUES (1)")
            raise psycopg.Rollback(inner)
        with connection.pipeline():
            for n in range(20):
                connection.execute("INSERT INTO q (i) VALUES (%s)", (n,))
        connection.commit()
        assert connection.execute("SELECT count(*), sum(i) FROM q").fetchone() == (20, 190)


def test_an_error_in_a_pipeline_undoes_all_of_it(cluster):
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE u (i INTEGER PRIMARY KEY)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            insert_all(connection, (1, 2, 1))
        assert connection.execute("SELECT count(*) FROM u").fetchone() == (0,)


def insert_all(connection, numbers):
    with connection.pipeline():
        for n in numbers:
            connection.execute("INSERT INTO u VALUES (%s)", (n,))


def test_a_cancelled_query_ends_and_the_session_goes_on(cluster):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    for reader in (False, True):
        with cluster.connect(reader=reader) as connection:
            timer = threading.Timer(0.3, connection.cancel)
            timer.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(endless)
            timer.join()
            connection.execute("SET statement_timeout = '200ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(endless)
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_asyncpg_pool_with_its_reset_batch(cluster):
    asyncio.run(_asyncpg(cluster.url()))


async def _asyncpg(url):
    async with asyncpg.create_pool(url, min_size=1, max_size=3) as pool:
        async with pool.acquire() as connection:
            await connection.execute(
                "CREATE TABLE a (i INTEGER PRIMARY KEY, f REAL, t TEXT, b BLOB, l BOOLEAN)"
            )
            row = (1, 2.5, "text", b"\x01\x02", True)
            await connection.execute("INSERT INTO a VALUES ($1, $2, $3, $4, $5)", *row)
            assert tuple(await connection.fetchrow("SELECT * FROM a WHERE i = $1", 1)) == row
            await connection.execute("SET statement_timeout = '7s'")
            rows = [(n, None, f"row {n}", None, False) for n in range(2, 50)]
            await connection.executemany("INSERT INTO a VALUES ($1, $2, $3, $4, $5)", rows)
            async with connection.transaction():
                await connection.execute(
                    "UPDATE a SET f = f + $1 WHERE i BETWEEN $2 AND $3", 1.0, 1, 1
                )
                cursor = await connection.cursor("SELECT i FROM a ORDER BY i")
                assert [r["i"] for r in await cursor.fetch(5)] == [1, 2, 3, 4, 5]
                assert [r["i"] for r in await cursor.fetch(2)] == [6, 7]
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute("INSERT INTO a (i) VALUES ($1)", 1)
        async with pool.acquire() as connection:  # RESET ALL came in between
            assert await connection.fetchval("SHOW statement_timeout") != "7s"
            assert await connection.fetchval("SELECT f FROM a WHERE i = $1", 1) == 3.5
            assert (
                await connection.fetchval("SELECT count(*) FROM a WHERE i IN ($1, $2)", 1, 2) == 2
            )
            limited = await connection.fetch(
                "SELECT count(*) AS n, l FROM a GROUP BY l LIMIT $1", 5
            )
            assert [tuple(r) for r in limited] == [(48, False), (1, True)]
        many = [pool.fetchval("SELECT count(*) FROM a") for _ in range(20)]
        assert set(await asyncio.gather(*many)) == {49}


@needs_pgbench
def test_pgbench_scripts_keep_their_books(cluster, tmp_path):
    with cluster.connect() as connection:
        for statement in PGBENCH_TABLES.split(";"):
            if statement.strip():
                connection.execute(statement)
    pipeline = tmp_path / "pipeline.sql"
    pipeline.write_text(PIPELINE)
    variants = [["-M", mode] for mode in ("simple", "extended", "prepared")]
    variants += [["-M", "prepared", "-N"], ["-M", "extended", "-f", str(pipeline)]]
    for options in variants:
        pgbench(cluster.url(), "-c", "4", "-t", "25", *options)
    done = 100 * len(variants)
    assert cluster.query("SELECT count(*) FROM pgbench_history") == [(done,)]
    [(accounts, history)] = cluster.query(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(delta) FROM pgbench_history)"
    )
    assert accounts == history
    cluster.until_sql("SELECT count(*) FROM pgbench_history", [(done,)], reader=True)
    pgbench(cluster.url(reader=True), "-S", "-M", "prepared", "-c", "4", "-t", "50")


def pgbench(url, *options):
    command = ["pgbench", "-n", "-s", "1", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "number of failed transactions: 0" in done.stdout
