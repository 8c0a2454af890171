"""What `Session.execute` returns: rows in portions, and the command tag at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import apsw

from engine.errors import SqlError
from engine.sql.connection import take
from engine.sql.errors import INVALID_CURSOR
from engine.sql.statement import Row, Statement, tag_of

if TYPE_CHECKING:
    from engine.sql.session import Session

PREFETCH = 64
"""Rows read while the statement is started: a shorter result is complete then."""


class Notice(NamedTuple):
    """Something a client should be told that is no error, with its SQLSTATE."""

    sqlstate: str
    message: str


class Cursor:
    """One running or finished statement.

    An unfinished one holds its session's read point, so close it or fetch it to its end. The end of
    the transaction closes it, and so does a write of the same session outside a transaction; `fetch`
    raises 34000 from then on.
    """

    def __init__(
        self,
        session: Session,
        statement: Statement,
        *,
        rows: list[Row],
        running: apsw.Cursor | None = None,
        tag: str = "",
        notice: Notice | None = None,
    ) -> None:
        self.statement = statement
        self.notice = notice
        self.closed = False
        self._session = session
        self._rows = rows
        self._at = 0
        self._running = running
        self._tag = tag
        self._given = 0

    @property
    def done(self) -> bool:
        """No more rows will come. False until a fetch has seen the end."""
        return self._running is None and self._at >= len(self._rows)

    @property
    def finished(self) -> bool:
        """SQLite is done with it, whether or not all rows were taken."""
        return self._running is None

    @property
    def tag(self) -> str:
        """The command tag, such as "INSERT 0 3"; for a SELECT, of the rows fetched so far."""
        return self._tag or tag_of(self.statement.verb, self._given)

    async def fetch(self, max_rows: int = 0) -> list[Row]:
        """The next rows: at most `max_rows` of them, fewer if they are large; all if that is 0.

        None at all mean that there are no more.
        """
        if self.closed:
            raise SqlError("the cursor is closed", sqlstate=INVALID_CURSOR)
        rows = self._take(max_rows)
        missing = max_rows - len(rows)
        if self._running is not None and (missing > 0 or max_rows <= 0):
            rows += await self._session.fetch_more(self, max(0, missing))
        self._given += len(rows)
        return rows

    def _take(self, max_rows: int) -> list[Row]:
        if self._at == 0 and (max_rows <= 0 or max_rows >= len(self._rows)):
            rows, self._rows = self._rows, []
            return rows
        upto = self._at + max_rows if max_rows > 0 else len(self._rows)
        rows = self._rows[self._at : upto]
        self._at += len(rows)
        if self._at >= len(self._rows):
            self._rows, self._at = [], 0
        return rows

    def step(self, count: int) -> list[Row]:
        """Below `run_sync`: `count` rows more from SQLite, all if 0. The session calls it."""
        assert self._running is not None
        if not count:
            rows: list[Row] = self._running.fetchall()
            self._running = None
            return rows
        rows, ended = take(self._running, count)
        if ended:
            self._running = None
        return rows

    def abandon(self) -> None:
        """Stop SQLite's work on it, which may give back the read point. Idempotent, never waits."""
        self.closed = True
        running, self._running = self._running, None
        self._rows, self._at = [], 0
        if running is not None:
            running.close(True)

    async def close(self) -> None:
        """Give up the rest. Idempotent."""
        await self._session.close_cursor(self)
