"""One SQLite connection over the volume. Synchronous: everything here runs below `run_sync`.

A connection belongs to one session and is used by one task at a time. It may be suspended anywhere
inside SQLite (at a page that is being fetched, at the sync of a commit, at a progress callback) while
connections of other sessions run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import apsw

from engine.sql.blind import Program
from engine.sql.bridge import await_sync, in_greenlet
from engine.sql.hardening import Guard, harden
from engine.sql.pool import BufferPool
from engine.sql.settings import SqlSettings
from engine.sql.sink import CommitSink
from engine.sql.statement import Column, Row, SqlValue
from engine.sql.vfs import VolumeFile, VolumeVfs

_SETUP = (
    ("journal_mode", "memory"),
    ("cache_spill", 0),
    ("temp_store", 2),
    ("synchronous", 0),
    ("locking_mode", "normal"),
    ("mmap_size", 0),
    ("auto_vacuum", 0),
)
_NO_VALUES = apsw._null_bindings  # type: ignore[attr-defined]  # what apsw.ext.query_info binds
_FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


EXPLAINED_CHARS_MAX = 4096
"""A longer statement's program is not looked at: an opcode takes a microsecond, and the loop waits."""

PORTION_BYTES = 1024 * 1024
"""Rows that are fetched together end with the one that takes their values to this size: SQLite's heap
limit does not count what has become Python's."""


class Described:
    """What SQLite says about the first statement of a text."""

    __slots__ = ("columns", "explain", "parameters", "readonly", "text")

    def __init__(self) -> None:
        self.text = ""
        self.parameters = 0
        self.columns: tuple[Column, ...] = ()
        self.readonly = True
        self.explain = False


class Connection:
    """Made lazily by its session, closed with it."""

    def __init__(
        self, vfs: VolumeVfs, pool: BufferPool, sink: CommitSink | None, settings: SqlSettings
    ) -> None:
        self.file = VolumeFile(pool, sink)
        vfs.open_next(self.file)
        self.db = apsw.Connection(
            "volume",
            flags=_FLAGS,
            vfs=vfs.vfs_name,
            statementcachesize=settings.prepared_max,
        )
        for name, value in _SETUP:
            self.db.pragma(name, value)
        self.db.pragma("cache_size", settings.cache_pages)
        self.guard: Guard = harden(self.db, settings)
        # Of the file, not of self: a cycle with `db` would leave its closing to garbage collection.
        self.db.set_progress_handler(partial(_turn, self.file), settings.progress_steps)
        self._runner = self.db.cursor()
        self._describer = self.db.cursor()
        self._describer.exec_trace = self._trace
        self._described = Described()

    def close(self) -> None:
        """Rolls back what is open."""
        self.db.set_progress_handler(None)
        self.db.close(True)

    # -- preparing

    def describe(self, text: str) -> Described:
        """Prepare the first statement of `text` without running it."""
        self._described = Described()
        with suppress(apsw.ExecTraceAbort):  # how a statement ends that its tracer does not let run
            # Not from APSW's cache: what is there is made anew for a changed schema only when run.
            self._describer.execute(text, _NO_VALUES, can_cache=False)
        return self._described

    def _trace(self, cursor: apsw.Cursor, text: str, _bindings: object) -> bool:
        described = self._described
        described.text = text
        described.parameters = cursor.bindings_count
        described.columns = tuple(
            Column(name, decltype) for name, decltype in cursor.get_description()
        )
        described.readonly = cursor.is_readonly
        described.explain = bool(cursor.is_explain)
        return False

    def forget_schema(self) -> None:
        """Have the schema read again when it is needed next.

        SQLite notices a new schema only when it runs a statement, never while it prepares one, and
        running one here could take a snapshot that the client's transaction has not asked for.
        """
        self.guard.trusted = True
        try:
            # It takes effect while being prepared, so it must not come from the cache.
            self._runner.execute("PRAGMA writable_schema = RESET", can_cache=False).fetchall()
        finally:
            self.guard.trusted = False

    # -- running

    def run(self, text: str, values: Sequence[SqlValue]) -> tuple[list[Row], int]:
        """To the end; all rows, and how many the statement inserted, updated or deleted."""
        rows: list[Row] = self._runner.execute(text, values).fetchall()
        return rows, self.db.changes()

    def explains(
        self,
        judge: Callable[[Program], bool],
        text: str,
        values: Sequence[SqlValue],
        otherwise: bool,
    ) -> bool:
        """What `judge` says of the program of `text`, and `otherwise` where SQLite does not tell it: an
        answer may always wait."""
        if len(text) > EXPLAINED_CHARS_MAX:
            return otherwise
        cursor = self.db.cursor()
        try:
            return judge(cursor.execute(f"EXPLAIN {text}", values, can_cache=False))
        except apsw.Error:
            return otherwise
        finally:
            cursor.close(True)  # it may be in the middle of the program

    def start(
        self, text: str, values: Sequence[SqlValue], count: int
    ) -> tuple[apsw.Cursor | None, list[Row]]:
        """Up to `count` first rows, and the cursor for more, None if those are all."""
        cursor = self.db.cursor()
        cursor.execute(text, values)
        rows, ended = take(cursor, count)
        return None if ended else cursor, rows

    def vacuum(self, text: str) -> tuple[list[Row], int]:
        """VACUUM needs what is otherwise refused: a temporary database beside the main one."""
        self.guard.vacuuming = True
        self.db.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)
        try:
            return self.run(text, ())
        finally:
            self.db.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
            self.guard.vacuuming = False


def take(cursor: apsw.Cursor, count: int) -> tuple[list[Row], bool]:
    """Up to `count` rows more, fewer if they are large, and whether those are all."""
    rows: list[Row] = []
    size = 0
    for row in cursor:
        rows.append(row)
        for value in row:
            if value.__class__ is str or value.__class__ is bytes:
                size += len(value)
        if len(rows) >= count or size >= PORTION_BYTES:
            return rows, False
    return rows, True


def _turn(file: VolumeFile) -> bool:
    """SQLite's progress callback: let others run. A cancellation arrives here as an exception; but not any
    more once the commit is made, after which SQLite has a few steps to do: it stands."""
    if in_greenlet() and file.committed is None:
        await_sync(asyncio.sleep(0))
    return False
