"""One connection of a chaos client: psycopg with a bound on every statement that really holds.

An instance that is cut off or stopped neither answers nor refuses, and asking it to cancel would wait just
as long. So a statement that takes too long has its socket shut down, and ends as a lost connection does.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

CONNECT_S = 5
STATEMENT_S = 10.0


@dataclass
class Failed(Exception):
    """A statement without success. `sqlstate` is "" if the connection ended without one."""

    sqlstate: str
    message: str
    lost: bool
    """The connection is of no use any more."""

    @property
    def unknown(self) -> bool:
        return self.sqlstate == "08007"


class Wire:
    """An open connection, to one instance for as long as it lives."""

    def __init__(self, connection: psycopg.AsyncConnection[tuple[Any, ...]], name: str) -> None:
        self._connection = connection
        self.name = name
        """The session's, unique in a run."""
        self.strong = False
        self.instance_number = connection.info.backend_pid >> 16
        """Which instance of its cluster serves it: the upper half of what cancel requests name."""

    @classmethod
    async def open(cls, url: str, name: str, *, strong: bool = False) -> Wire:
        """Raises Failed."""
        try:
            connection = await psycopg.AsyncConnection.connect(
                url, autocommit=True, connect_timeout=CONNECT_S, application_name="sextet chaos"
            )
        except psycopg.Error as error:
            raise Failed(error.sqlstate or "", str(error), lost=True) from error
        wire = cls(connection, name)
        if strong:
            try:
                await wire.run("SET sextet.read_consistency = 'strong'")
            except Failed:
                await wire.close()
                raise
            wire.strong = True
        return wire

    async def run(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows. Raises Failed, after STATEMENT_S at the latest."""
        watch = asyncio.get_running_loop().call_later(STATEMENT_S, self._cut)
        try:
            cursor = await self._connection.execute(sql.encode(), params or None)
            return await cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            lost = self._connection.closed or error.sqlstate is None
            raise Failed(error.sqlstate or "", str(error), lost=lost) from error
        finally:
            watch.cancel()

    async def show(self, name: str) -> int:
        """An LSN that the session can tell. Raises Failed."""
        return int((await self.run(f"SHOW {name}"))[0][0])

    def _cut(self) -> None:
        if self._connection.closed:
            return
        with socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as copy:
            try:
                copy.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is gone already, which is what we want

    async def close(self) -> None:
        await self._connection.close()
