"""The cluster that everything happens to, the client that writes to it, and what has to hold of it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from cluster.local.folder import Folder
from cluster.local.layout import ClusterSpec, Layout, load
from cluster.local.state import running_state
from cluster.testing import LocalCluster

OLD_ROWS = 1200
OLD_BYTES = 2400
"""Rows of before, most of a page each: more than one part of a base or snapshot."""

PAUSE_S = 0.1
COMMAND_S = 180.0
BACK_S = 90.0
"""After a kill everything works again within that."""


class Wrong(Exception):
    """Something does not hold."""


def body(number: int) -> str:
    return f"row {number} {number * 7919 % 10007}"


def prefix(rows: Sequence[tuple[Any, ...]]) -> int:
    """These are rows 1 to n in order: n. Raises Wrong."""
    for at, row in enumerate(rows, start=1):
        if row != (at, body(at)):
            raise Wrong(f"row {at} is {row}")
    return len(rows)


class Rows:
    """A client that inserts one row after the other, and knows which were acknowledged."""

    def __init__(self, url: str) -> None:
        self.acked = 0
        self.sent = 0
        self.wrong: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._turn = threading.RLock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._connection: psycopg.Connection[Any] | None = None
        self._doubt = True

    def __enter__(self) -> Rows:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            with self._turn:
                self._insert()

    def _insert(self) -> None:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=10)
            if self._doubt:
                self._look(self._connection)
            self.sent = self.acked + 1
            self._doubt = True
            self._connection.execute(
                "INSERT INTO beat VALUES (%s, %s)", (self.sent, body(self.sent))
            )
            self.acked, self._doubt = self.sent, False
        except psycopg.Error:
            if self._connection is not None:
                self._connection.close()

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        """What became of the row whose outcome nobody has told."""
        found = connection.execute("SELECT coalesce(max(id), 0) FROM beat").fetchone()
        assert found is not None
        if not self.acked <= found[0] <= self.sent:
            self.wrong.append(f"{self.acked} to {self.sent} rows were there, and now {found[0]}")
        self.acked, self._doubt = found[0], False

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nothing is inserted in the block."""
        with self._turn:
            yield

    def settled(self) -> tuple[datetime, int]:
        """A moment between two commits, and how many rows there are then."""
        deadline = time.monotonic() + BACK_S
        while time.monotonic() < deadline:
            with self._turn:
                if not self._doubt:
                    time.sleep(0.002)
                    found = datetime.now(UTC), self.acked
                    time.sleep(0.002)
                    return found
                self._insert()
        raise Wrong(f"no row was acknowledged for {BACK_S:.0f} s")


@dataclass
class Bench:
    """The cluster under test and what is known of it."""

    cluster: LocalCluster
    rows: Rows
    room: Path
    rng: random.Random
    number: int = 0
    """Of the experiment, and so of whatever it makes."""

    expected: tuple[int, int] = (0, 0)
    """As few and as many rows as the state may have that this operation is to keep."""

    moment: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    @property
    def folder(self) -> Folder:
        return Folder.at(self.cluster.folder)

    @property
    def layout(self) -> Layout:
        found = load(self.folder.data)
        assert found is not None
        return found

    def spec(self, name: str) -> ClusterSpec | None:
        return next((c for c in self.layout.clusters if c.name == name), None)

    def kill(self, *names: str) -> None:
        for name in names:
            state = running_state(self.folder)
            child = state.child(name) if state is not None else None
            if child is not None and child.process is not None:
                child.process.send(signal.SIGKILL)

    def check_rows(self, rows: Sequence[tuple[Any, ...]], old: tuple[Any, ...], what: str) -> None:
        """Raises Wrong unless these are the contents of what the operation was to keep."""
        if old != (OLD_ROWS, OLD_ROWS * OLD_BYTES):
            raise Wrong(f"{what} has {old} of the old rows")
        found = prefix(rows)
        low, high = self.expected
        if not low <= found <= high:
            raise Wrong(f"{what} has {found} rows, not {low} to {high}")

    def check_file(self, path: Path, what: str) -> None:
        with closing(sqlite3.connect(path)) as database:
            if database.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                raise Wrong(f"{what} fails its integrity check")
            self.check_rows(
                database.execute(BEATS).fetchall(), database.execute(OLDS).fetchone(), what
            )

    def check_cluster(self, name: str) -> None:
        """By SQL, once it answers."""
        spec = self.spec(name)
        if spec is None:
            raise Wrong(f"there is no {name}")
        deadline = time.monotonic() + BACK_S
        while True:
            try:
                with psycopg.connect(
                    spec.writer_url, autocommit=True, connect_timeout=10
                ) as client:
                    client.execute("SET statement_timeout = '30s'")
                    beats = client.execute(BEATS).fetchall()
                    old = client.execute(OLDS).fetchone()
                break
            except psycopg.Error as error:
                if time.monotonic() > deadline:
                    raise Wrong(f"{name} does not answer: {error}") from error
                time.sleep(0.2)
        assert old is not None
        self.check_rows(beats, old, name)


BEATS = "SELECT id, body FROM beat ORDER BY id"
OLDS = "SELECT count(*), sum(length(body)) FROM old"


def begin_command(bench: Bench, arguments: Sequence[object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cluster.cli.app", *map(str, arguments)],
        env={**os.environ, "SEXTET_DATA": str(bench.folder.data), "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(command: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        text, _ = command.communicate(timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        command.kill()
        command.communicate()
        return -1, f"it did not end within {COMMAND_S:.0f} s"
    return command.returncode, " ".join(text.split())
