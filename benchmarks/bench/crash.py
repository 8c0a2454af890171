"""PostgreSQL's crash recovery: kill -9 of everything, and the time until it commits again.

A primary alone, since a standby would only add to it, and with settings that keep any checkpoint away from
the redo that is written. Whoever supervises it starts it again at once: the clock runs from the first kill,
over the start by pg_ctl, to the first commit of a new connection. At its end recovery makes a checkpoint,
so each kill needs redo of its own. Part of it does not depend on redo: after a crash the server flushes
every file of its data folder before it begins.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

import psycopg

from benchmarks import procfs
from benchmarks.bench.postgres import Postgres

NO_CHECKPOINT = {"max_wal_size": "64GB", "checkpoint_timeout": "1d"}

POLL_S = 0.01
GONE_S = 10.0
BACK_S = 600.0


def make(database: Postgres, rows: int, row_bytes: int) -> None:
    """Running, with so many rows of that width, which stays outside of TOAST and uncompressed."""
    database.make()
    database.start()
    with psycopg.connect(database.writer_url, autocommit=True) as client:
        client.execute("CREATE TABLE beat (id SERIAL PRIMARY KEY, t TEXT)")
        client.execute("CREATE TABLE wide (id INTEGER PRIMARY KEY, bytes BYTEA)")
        client.execute("ALTER TABLE wide ALTER bytes SET STORAGE PLAIN")
        client.execute(f"INSERT INTO wide SELECT i, '' FROM generate_series(1, {rows}) i")
        client.execute(_rewrite(row_bytes))


def _rewrite(row_bytes: int) -> bytes:
    """Other bytes in each row; what is random in them is the first 16, which no log knows how to use."""
    bytes_ = f"decode(repeat(md5(random()::text), {row_bytes // 16}), 'hex')"
    return f"UPDATE wide SET bytes = {bytes_}".encode()


def write_redo(database: Postgres, megabytes: float, row_bytes: int) -> float:
    """A checkpoint, then so much redo; how much has to be replayed after a crash now, in MB."""
    with psycopg.connect(database.writer_url, autocommit=True) as client:
        client.execute("CHECKPOINT")
        while (done := _redo_mb(client)) < megabytes:
            client.execute(_rewrite(row_bytes))
            print(f"\r  {done:.0f} of {megabytes:.0f} MB of redo", end="", file=sys.stderr)
    print(file=sys.stderr)
    return done


def _redo_mb(client: psycopg.Connection) -> float:
    """From where the last checkpoint would have recovery begin."""
    row = client.execute(
        "SELECT pg_current_wal_lsn() - redo_lsn FROM pg_control_checkpoint()"
    ).fetchone()
    assert row is not None
    return float(row[0]) / 1e6


def kill_and_start(database: Postgres) -> float:
    """Seconds until a new connection has committed."""
    postmasters = database.postmasters()
    for pid in postmasters:
        os.kill(pid, signal.SIGSTOP)  # it has no more children from here on
    pids = database.pids()
    began = time.perf_counter()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while any(procfs.is_there(pid) for pid in pids):
        if time.perf_counter() - began > GONE_S:
            sys.exit(f"processes of PostgreSQL are still there {GONE_S:.0f} s after kill -9")
        time.sleep(POLL_S / 10)
    database.launch()
    while time.perf_counter() - began < BACK_S:
        try:
            with psycopg.connect(database.writer_url, autocommit=True) as client:
                client.execute("INSERT INTO beat DEFAULT VALUES")
                return time.perf_counter() - began
        except psycopg.OperationalError:
            time.sleep(POLL_S)
    sys.exit(f"PostgreSQL does not commit {BACK_S:.0f} s after kill -9")
