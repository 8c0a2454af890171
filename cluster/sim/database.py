"""The control plane's SQLite without aiosqlite's thread: the same calls, on the loop, with virtual time.

`Medium` is the database and outlives its process, which may die in the middle of a transaction: then
SQLite rolls back, as it would for real.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Coroutine, Generator, Iterable
from typing import Any

from cluster.sim.process import Life

COMMIT_S = 0.001


class Medium:
    """One database file."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)

    def crash(self) -> None:
        if self.db.in_transaction:
            self.db.rollback()


class _Cursor:
    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._cursor.lastrowid

    async def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    async def fetchone(self) -> Any:
        return self._cursor.fetchone()


class _Execution:
    """Awaitable, and a context manager, as aiosqlite's."""

    def __init__(self, database: SimDatabase, sql: str, values: Any) -> None:
        self._database = database
        self._sql = sql
        self._values = values

    async def _run(self) -> _Cursor:
        await self._database.turn()
        return _Cursor(self._database.db.execute(self._sql, self._values))

    def __await__(self) -> Generator[Any, None, _Cursor]:
        return self._run().__await__()

    async def __aenter__(self) -> _Cursor:
        return await self._run()

    async def __aexit__(self, *_error: object) -> None:
        return None


class SimDatabase:
    """What `Catalog` uses of aiosqlite.Connection."""

    def __init__(self, medium: Medium, rng: random.Random, life: Life) -> None:
        medium.crash()
        self.db = medium.db
        self._rng = rng
        self._life = life

    async def turn(self, seconds: float = 0.0) -> None:
        await asyncio.sleep(seconds * (0.5 + self._rng.random()))
        self._life.check()

    @property
    def total_changes(self) -> int:
        return self.db.total_changes

    def execute(self, sql: str, values: Any = ()) -> _Execution:
        return _Execution(self, sql, values)

    async def executemany(self, sql: str, values: Iterable[Any]) -> _Cursor:
        await self.turn()
        return _Cursor(self.db.executemany(sql, values))

    async def executescript(self, sql: str) -> None:
        await self.turn()
        self.db.executescript(sql)

    async def commit(self) -> None:
        await self.turn(COMMIT_S)
        self.db.commit()
        await self.turn()

    def rollback(self) -> Coroutine[Any, Any, None]:
        self._life.check()  # here, or whoever has just died would leave a coroutine that nobody awaits
        return self._rollback()

    async def _rollback(self) -> None:
        await self.turn()
        self.db.rollback()

    async def close(self) -> None:
        """The medium stays."""
