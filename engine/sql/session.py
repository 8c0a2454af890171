"""One client's session: statements one after the other, by PostgreSQL's rules, on one connection.

Reads outside a write transaction see the state at VDL when their snapshot was taken. A write
transaction takes the engine's write lock first, then reads and writes at the tip, the newest
committed state whether durable or not.

Invariants
- The lock is given back right after the commit or rollback, in the same turn of the event loop; only
  then does the session wait for durability. The session parks, the engine goes on (P18 §2.2).
- Nobody is shown anything above VDL. A write transaction that began on a tip above VDL returns no
  result before what that rests on is durable, and no error before the tip is; rows of RETURNING in
  autocommit wait for the commit itself. With `answer_later` it does, and who has set that shows
  nobody anything before `settle` has returned.
- After an error inside a transaction the status is "E". Where no savepoint could bring the
  transaction back SQLite has rolled back by then, so a failed client holds up nobody.
- One task at a time. A second one gets SessionBusy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

import apsw

from engine.errors import CommitUnknown, QueryCanceled, ReadOnly, SextetError, SqlError
from engine.moments import NEWEST
from engine.sql import errors
from engine.sql.blind import is_blind, remembers
from engine.sql.bridge import run_sync
from engine.sql.connection import Connection
from engine.sql.cursor import PREFETCH, Cursor, Notice
from engine.sql.prepared import PreparedStatements
from engine.sql.settings import ReadConsistency, SessionSettings
from engine.sql.statement import (
    Row,
    SqlValue,
    Statement,
    check_values,
    tag_of,
)
from engine.sql.transaction import Control, Verb
from engine.sql.turn import WriteTurn
from engine.sql.watch import Watch
from engine.types import LSN, CommitMark

if TYPE_CHECKING:
    from engine.sql.engine import SqlEngine

P = ParamSpec("P")
T = TypeVar("T")


class Session:
    """Made by `SqlEngine.session`. Every method that awaits raises SqlError with a SQLSTATE."""

    def __init__(self, engine: SqlEngine, *, user: str, database: str) -> None:
        self.user = user
        self.database = database
        self.status: Literal["I", "T", "E"] = "I"
        """Idle, in a transaction, or in one that failed."""
        self.last_commit: CommitMark | None = None
        """Of the newest transaction of this session that wrote, durable once its call has returned."""
        self.settings = SessionSettings(
            engine.settings.statement_timeout_s, engine.settings.lock_timeout_s
        )
        self.sql_bytes_max = engine.settings.sql_bytes_max
        self._engine = engine
        self._pool = engine.pool
        self._watch = Watch(self.settings)
        self._turn = WriteTurn(engine.pool, engine.sink, engine.lock, self._watch)
        self.owes = self._turn.owes
        """Whether results were given that nobody may be shown yet."""
        self._connection: Connection | None = None
        self._prepared = PreparedStatements(engine.pool, engine.settings.prepared_max)
        self._cursors: list[Cursor] = []  # unfinished
        self._read_only = False  # of the running transaction
        self._savepoints: list[str] = []  # of the running transaction, newest last
        self._as_of = NEWEST  # of what `connection.file.as_of` was the last commit
        self._closed = False

    @property
    def read_point(self) -> CommitMark | None:
        """The state that the open transaction reads, once it has read; None outside of one."""
        return self._connection.file.mark if self._connection is not None else None

    @property
    def closed(self) -> bool:
        """Whether it is, or is being closed."""
        return self._closed

    @property
    def commits(self) -> bool:
        """Whether a commit is on its way: whoever ends the session now does not know its outcome."""
        handed_over = self._connection is not None and self._connection.file.committed is not None
        return handed_over or self._turn.waits

    @property
    def points(self) -> dict[str, LSN]:
        """What a client may carry to another session's `wait_for`: its newest commit, its newest read."""
        commit = self.last_commit.lsn if self.last_commit is not None else 0
        read = self._connection.file.last_read if self._connection is not None else 0
        return {"sextet.last_commit": commit, "sextet.last_read": max(read, commit)}

    def answer_later(self, later: bool) -> None:
        """Whether results may rest on what is not durable yet: then the caller keeps them to itself while
        the session `owes`, and asks it to `settle`. For statements that others follow at once."""
        self._turn.later = later

    async def settle(self) -> None:
        """Wait until what has been given may be shown. Raises SqlError: then it never may."""
        if self.owes():
            with self._watch:
                try:
                    await self._turn.settle()
                except SextetError as error:
                    raise errors.as_sql_error(error) from error

    def wall_us(self) -> int:
        """Unix microseconds by this instance's clock."""
        return self._engine.wall_us()

    # -- what clients call

    async def prepare(self, sql: str) -> Statement:
        """The first statement of `sql`; verb "" if there is none."""
        return await self._call(sql, self._prepare, sql)

    async def execute(self, statement: Statement, params: Sequence[SqlValue] = ()) -> Cursor:
        """Run it. A statement that writes has run to its end, and is durable if it committed."""
        self._engine.statements += 1
        return await self._call(statement.text, self._execute, statement, params)

    async def column_types(self, table: str) -> dict[str, str | None] | None:
        """Column -> declared type of a table or view, None if SQLite knows none of that name.

        Asking fails no transaction.
        """
        quoted = table.replace('"', '""')
        return await self._call("", self._column_types, f'SELECT * FROM "{quoted}"')

    def set_read_only(self, read_only: bool) -> None:
        """SET TRANSACTION: of the running transaction; nothing outside one. Raises SqlError."""
        if self.status == "T":
            if self._turn.held and read_only != self._read_only:
                raise SqlError(
                    "transaction read-write mode must be set before any query",
                    sqlstate=errors.ACTIVE_TRANSACTION,
                )
            self._read_only = read_only

    def running(self) -> AbstractContextManager[None]:
        """What is done inside is one call: one statement timeout, and `cancel` ends all of it.

        For whoever sends rows while it fetches them. An error that it ends with is not one that the
        session has met: `fail` tells it.
        """
        return self._watch

    async def fail(self) -> None:
        """The client is told of an error that the session has not met: an open transaction fails."""
        if not self._closed:
            with self._watch:
                await self._fail()

    def cancel(self) -> None:
        """End what the session is doing, from another task. It may be too late; that is no error."""
        self._watch.interrupt(QueryCanceled("canceling statement due to user request"))

    async def close(self) -> None:
        """Interrupt what runs, roll back, free everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._watch.interrupt(errors.SessionClosed("the session is being closed"))
        await self._watch.wait_idle()
        self._watch.close()
        self._close_cursors()
        if self._connection is not None:
            await run_sync(self._connection.close)
            self._turn.end(self._connection.file)
        self._engine.forget(self)

    # -- every call: one at a time, interruptible, errors as SqlError

    async def _call(
        self, sql: str, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._closed:
            raise errors.SessionClosed("the session is closed")
        with self._watch:
            try:
                return await work(*args, **kwargs)
            except Exception as error:
                failure = self._explain(error, sql)
                await self._fail()
                if not isinstance(failure, CommitUnknown):  # told whatever comes, and tells nothing
                    await self._told_durable()  # any other error does of the state it met
                if failure is error:
                    raise
                raise failure from error
            except BaseException:
                await self._fail()
                raise
            finally:
                if not self._turn.held:
                    self._turn.forget_base()

    def _explain(self, error: Exception, sql: str) -> SqlError:
        connection = self._connection
        denied = connection.guard.take() if connection is not None else None
        if denied is not None and isinstance(error, apsw.Error):
            return denied
        return errors.as_sql_error(error, sql)

    async def _fail(self) -> None:
        """Roll back what PostgreSQL would, and do not hold the lock for a client that failed."""
        self._prepared.schema_changes += 1
        if self.status == "T":
            self.status = "E"
            self._close_cursors()
        connection = self._connection
        if connection is None:
            return
        if connection.db.in_transaction and not (self.status == "E" and self._savepoints):
            await run_sync(connection.run, "ROLLBACK", ())
        self._settle(connection)

    def _settle(self, connection: Connection) -> None:
        """SQLite's transaction may be over: then so is the turn."""
        if not connection.db.in_transaction:
            self._turn.end(connection.file)

    async def _told_durable(self) -> None:
        """Wait for what an error tells of, and for what it left behind.

        SQLite's ON CONFLICT FAIL keeps, and outside a transaction commits, what a statement had done
        before the row that failed it.
        """
        connection = self._connection
        left = connection.file.take_committed() if connection is not None else None
        if left is not None:
            await self._turn.durable(left.lsn)
            return
        try:
            await self._turn.base_durable()
        except Exception as error:
            raise errors.as_sql_error(error) from error

    async def _connected(self) -> Connection:
        if self._connection is None:
            engine = self._engine
            self._connection = await run_sync(
                Connection, engine.vfs, engine.pool, engine.sink, engine.settings
            )
        await self._travel(self._connection)
        return self._connection

    async def _travel(self, connection: Connection) -> None:
        """Have the next read point lie where `settings.read_as_of` says. Raises SqlError."""
        wanted, ask = self.settings.read_as_of, self._engine.commit_at
        if wanted == self._as_of or connection.file.mark is not None:
            return
        as_of = None
        if not wanted.newest:
            if ask is None:
                raise SqlError("there is no past here", sqlstate=errors.NOT_SUPPORTED)
            as_of = await ask(wanted)
            await self._pool.wait_visible(as_of.lsn)
        connection.file.as_of, self._as_of = as_of, wanted

    async def _prepare(self, sql: str) -> Statement:
        connection = await self._connected()
        try:
            statement = await self._prepared.prepare(connection, sql)
        except apsw.SQLError:  # it may name what was made a moment ago
            if not await self._catch_up(connection):
                raise
            statement = await self._prepared.prepare(connection, sql)
        if statement.verb:
            self.refuse_in_failed(statement.control)
        await self._turn.read_durable(self._turn.schema_rests_on())
        return statement

    async def _column_types(self, sql: str) -> dict[str, str | None] | None:
        connection = await self._connected()
        try:
            statement = await self._prepared.prepare(connection, sql)
        except apsw.SQLError:
            return None
        await self._turn.read_durable(self._turn.schema_rests_on())
        return {column.name: column.decltype for column in statement.columns}

    # -- executing

    async def _execute(self, statement: Statement, params: Sequence[SqlValue]) -> Cursor:
        connection = await self._connected()
        if statement.control is not None:
            return await self._control(connection, statement, statement.control)
        if not statement.verb:
            return Cursor(self, statement, rows=[])
        self.refuse_in_failed()
        check_values(params, statement)
        if statement.readonly:
            return await self._read(connection, statement, params)
        return await self._write(connection, statement, params)

    async def _read(
        self, connection: Connection, statement: Statement, params: Sequence[SqlValue]
    ) -> Cursor:
        await self._catch_up(connection)
        await self._prepared.check_columns(connection, statement)
        running, rows = await run_sync(connection.start, statement.text, params, PREFETCH)
        cursor = Cursor(self, statement, rows=rows, running=running)
        if running is not None:
            self._cursors.append(cursor)
        if rows and len(rows[0]) != len(statement.columns):
            self._drop_cursor(cursor)
            raise SqlError("cached plan must not change result type", sqlstate=errors.PLAN_CHANGED)
        await self._turn.read_durable(await self._read_rests_on(connection, statement, params))
        return cursor

    async def _read_rests_on(
        self, connection: Connection, statement: Statement, params: Sequence[SqlValue]
    ) -> LSN:
        """What was read in this turn; and by what SQLite remembers besides pages, what was read in an
        earlier one that nobody has waited for to its end."""
        turn = self._turn
        newest = max(turn.base, connection.file.rests_on)
        if turn.may_show(newest):
            return newest
        if "data_version" in statement.text.lower():  # it is of the state, whatever has changed
            return newest
        if not turn.held and await run_sync(
            connection.explains, remembers, statement.text, params, True
        ):
            return newest
        return turn.rests_on()

    async def _catch_up(self, connection: Connection) -> bool:
        """Before a snapshot is taken: wait until it will show what this session's reads must see.

        False if there was nothing to wait for. Raises SqlError 57P03 if nobody knows what that is.
        """
        settings = self.settings
        if (
            settings.read_consistency is ReadConsistency.EVENTUAL
            or connection.file.mark is not None
            or connection.file.as_of is not None
        ):
            return False
        floor = settings.wait_for
        if settings.read_consistency is ReadConsistency.STRONG:
            ask = self._engine.commit_point
            if ask is not None:
                floor = max(floor, await ask())
        await self._pool.wait_visible(floor)
        return True

    async def _write(
        self, connection: Connection, statement: Statement, params: Sequence[SqlValue]
    ) -> Cursor:
        self._refuse_if_read_only(statement.verb)
        if self.status == "I":
            self._close_cursors()
        await self._turn.begin(connection.file, self.settings.lock_timeout_s)
        if statement.columns:
            await self._prepared.check_columns(connection, statement)
        if statement.verb == "VACUUM":
            rows, changes = await run_sync(connection.vacuum, statement.text)
        else:
            rows, changes = await run_sync(connection.run, statement.text, params)
        if not statement.counts_changes:
            self._prepared.schema_changes += 1
        rests_on = self._turn.rests_on()
        if (
            statement.verb == "INSERT"
            and connection.file.committed is None
            and not self._turn.may_show(rests_on)
            and await run_sync(connection.explains, is_blind, statement.text, params, False)
        ):
            rests_on = self._turn.schema_rests_on()
        await self._committed(connection, rests_on)
        return Cursor(self, statement, rows=rows, tag=tag_of(statement.verb, changes))

    async def _committed(self, connection: Connection, rests_on: LSN | None = None) -> None:
        """Give the lock back if the transaction is over; then wait until its result may be told, which
        rests on all that was read unless on less."""
        mark = connection.file.take_committed()
        self._settle(connection)
        if mark is not None:
            self.last_commit = mark
            await self._turn.durable(mark.lsn)
        else:
            await self._turn.read_durable(rests_on)

    def _refuse_if_read_only(self, verb: str) -> None:
        chosen = self.settings.read_only if self.status == "I" else self._read_only
        if not (self.settings.read_as_of.newest and self._as_of.newest):
            raise ReadOnly(f"cannot execute {verb} in the past; RESET sextet.read_as_of first")
        if chosen or self._engine.sink is None:
            raise ReadOnly(f"cannot execute {verb} in a read-only transaction")

    def refuse_in_failed(self, control: Control | None = None) -> None:
        """Raises SqlError 25P02 in a failed transaction, but for what may end it."""
        if self.status == "E" and (control is None or not control.ends_failed):
            raise SqlError(
                "current transaction is aborted, commands ignored until end of transaction block",
                sqlstate=errors.IN_FAILED_TRANSACTION,
            )

    # -- transaction statements

    async def _control(
        self, connection: Connection, statement: Statement, control: Control
    ) -> Cursor:
        self.refuse_in_failed(control)
        tag, notice = control.tag, None
        match control.verb:
            case Verb.BEGIN:
                notice = await self._begin(connection, control)
            case Verb.COMMIT | Verb.ROLLBACK:
                tag, notice = await self._finish(connection, control)
            case Verb.SAVEPOINT | Verb.RELEASE | Verb.ROLLBACK_TO:
                await self._savepoint(connection, control)
        return Cursor(self, statement, rows=[], tag=tag, notice=notice)

    async def _begin(self, connection: Connection, control: Control) -> Notice | None:
        if self.status == "T":
            return Notice(errors.ACTIVE_TRANSACTION, "there is already a transaction in progress")
        self._close_cursors()
        read_only = control.read_only
        self._read_only = self.settings.read_only if read_only is None else read_only
        if control.locks:
            if not self.settings.read_as_of.newest:
                raise ReadOnly("cannot take the write lock while sextet.read_as_of is set")
            if self._read_only or self._engine.sink is None:
                raise ReadOnly("cannot take the write lock in a read-only transaction")
            await self._turn.begin(connection.file, self.settings.lock_timeout_s)
            await run_sync(connection.run, "BEGIN IMMEDIATE", ())
        else:
            await run_sync(connection.run, "BEGIN", ())
        await self._turn.read_durable()
        self.status = "T"  # not before: a BEGIN that fails has begun nothing
        self._savepoints.clear()
        return None

    async def _finish(self, connection: Connection, control: Control) -> tuple[str, Notice | None]:
        if self.status == "I":
            notice = Notice(errors.NO_ACTIVE_TRANSACTION, "there is no transaction in progress")
            return control.tag, notice
        commits = control.verb is Verb.COMMIT and self.status == "T"
        self._close_cursors()
        self.status = "I"  # also when this fails: then the transaction is rolled back
        if connection.db.in_transaction:
            await run_sync(connection.run, "COMMIT" if commits else "ROLLBACK", ())
        if not commits:
            self._prepared.schema_changes += 1
        await self._committed(connection)
        return "COMMIT" if commits else "ROLLBACK", None

    async def _savepoint(self, connection: Connection, control: Control) -> None:
        if self.status == "I":
            raise SqlError(
                f"{control.verb.value} can only be used in transaction blocks",
                sqlstate=errors.NO_ACTIVE_TRANSACTION,
            )
        if not connection.db.in_transaction:
            raise SqlError(
                f"savepoint {control.name} is gone: the whole transaction was rolled back",
                sqlstate=errors.INVALID_SAVEPOINT,
            )
        if control.verb is Verb.ROLLBACK_TO:
            self._close_cursors()
            self._prepared.schema_changes += 1
        await run_sync(connection.run, f"{control.verb.value} {control.name}", ())
        self.status = "T"
        names = self._savepoints
        if control.verb is Verb.SAVEPOINT:
            names.append(control.key)
            return
        while names and names[-1] != control.key:
            names.pop()
        if names and control.verb is Verb.RELEASE:
            names.pop()

    # -- cursors

    async def fetch_more(self, cursor: Cursor, count: int) -> list[Row]:
        """For `Cursor.fetch`: `count` rows more, all if 0."""
        return await self._call(cursor.statement.text, self._fetch, cursor, count)

    async def _fetch(self, cursor: Cursor, count: int) -> list[Row]:
        try:
            rows = await run_sync(cursor.step, count)
        except BaseException:
            self._drop_cursor(cursor)
            raise
        if cursor.finished:
            self._cursors.remove(cursor)
        await self._turn.read_durable()
        return rows

    async def close_cursor(self, cursor: Cursor) -> None:
        """For `Cursor.close`."""
        if not cursor.finished:
            with self._watch:
                self._drop_cursor(cursor)

    def _drop_cursor(self, cursor: Cursor) -> None:
        if cursor in self._cursors:
            self._cursors.remove(cursor)
        cursor.abandon()

    def _close_cursors(self) -> None:
        cursors, self._cursors = self._cursors, []
        for cursor in cursors:
            cursor.abandon()
