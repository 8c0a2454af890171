"""PostgreSQL's crash recovery: kill -9 of everything, and the time until it commits again.

A primary alone, since a standby would only add to it, and with settings that keep any checkpoint away from
the redo that is written. We are its supervisor: the postmaster is our child, so that its end is noticed at
once (its lock file is not stale before somebody has asked how it ended), and it is started again at once.
The clock runs from the first kill to the first commit of a new connection. At its end recovery makes a
checkpoint, so each kill needs redo of its own.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from benchmarks import procfs
from benchmarks.bench.postgres import Postgres

NO_CHECKPOINT = {"max_wal_size": "64GB", "checkpoint_timeout": "1d"}

POLL_S = 0.01
GONE_S = 10.0
BACK_S = 600.0


class Primary:
    """`database`, which has no standbys and is made, under our supervision."""

    def __init__(self, database: Postgres) -> None:
        self._database = database
        self._postmaster = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        data, user = self._database.data(), self._database.user
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_user = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        with open(f"{data}.log", "ab") as log:
            return subprocess.Popen(
                [self._database.bin / "postgres", "-D", data, *self._database.arguments()],
                cwd=data,
                stdout=log,
                stderr=log,
                **as_user,
            )

    def stop(self) -> None:
        self._postmaster.send_signal(signal.SIGINT)  # a fast shutdown
        self._postmaster.wait()

    def until_there(self) -> None:
        """Raises SystemExit if it does not answer in time."""
        self._first(b"SELECT 1", time.perf_counter())

    def fill(self, rows: int, row_bytes: int) -> None:
        """So many rows of that width, which stays outside of TOAST and uncompressed."""
        with psycopg.connect(self._database.writer_url, autocommit=True) as client:
            client.execute("CREATE TABLE beat (id SERIAL PRIMARY KEY, t TEXT)")
            client.execute("CREATE TABLE wide (id INTEGER PRIMARY KEY, bytes BYTEA)")
            client.execute("ALTER TABLE wide ALTER bytes SET STORAGE PLAIN")
            client.execute(
                f"INSERT INTO wide SELECT i, '' FROM generate_series(1, {rows}) i".encode()
            )
            client.execute(_rewrite(row_bytes))

    def write_redo(self, megabytes: float, row_bytes: int) -> float:
        """A checkpoint, then so much redo; how much has to be replayed after a crash now, in MB."""
        with psycopg.connect(self._database.writer_url, autocommit=True) as client:
            client.execute("CHECKPOINT")
            while (done := _redo_mb(client)) < megabytes:
                client.execute(_rewrite(row_bytes))
                print(f"\r  {done:.0f} of {megabytes:.0f} MB of redo", end="", file=sys.stderr)
        print(file=sys.stderr)
        return done

    def kill_and_start(self) -> float:
        """Seconds until a new connection has committed."""
        self._postmaster.send_signal(signal.SIGSTOP)  # it has no more children from here on
        pids = [self._postmaster.pid, *procfs.children(self._postmaster.pid)]
        began = time.perf_counter()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._postmaster.wait()
        while any(procfs.is_alive(pid) for pid in pids):  # one of them would be in the way
            if time.perf_counter() - began > GONE_S:
                sys.exit(f"processes of PostgreSQL are still there {GONE_S:.0f} s after kill -9")
            time.sleep(POLL_S / 10)
        self._postmaster = self._start()
        return self._first(b"INSERT INTO beat DEFAULT VALUES", began)

    def _first(self, sql: bytes, began: float) -> float:
        """Seconds until a new connection has done that. Raises SystemExit if none does in time."""
        while time.perf_counter() - began < BACK_S and self._postmaster.poll() is None:
            try:
                with psycopg.connect(self._database.writer_url, autocommit=True) as client:
                    client.execute(sql)
                    return time.perf_counter() - began
            except psycopg.OperationalError:
                time.sleep(POLL_S)
        sys.exit(f"PostgreSQL does not answer; its log is {self._database.data()}.log")


@contextmanager
def primary(database: Postgres, rows: int, row_bytes: int) -> Iterator[Primary]:
    """Made and filled, and stopped at the end of the block."""
    database.make()
    made = Primary(database)
    try:
        made.until_there()
        made.fill(rows, row_bytes)
        yield made
    finally:
        made.stop()


def _rewrite(row_bytes: int) -> bytes:
    """Other bytes in each row; what is random in them is the first 16, which no log knows how to use."""
    bytes_ = f"decode(repeat(md5(random()::text), {row_bytes // 16}), 'hex')"
    return f"UPDATE wide SET bytes = {bytes_}".encode()


def _redo_mb(client: psycopg.Connection) -> float:
    """From where the last checkpoint would have recovery begin."""
    row = client.execute(
        "SELECT pg_current_wal_lsn() - redo_lsn FROM pg_control_checkpoint()"
    ).fetchone()
    assert row is not None
    return float(row[0]) / 1e6
