"""One client's conversation: start-up, simple queries, the extended protocol, errors.

Invariants
- After an error in the extended protocol nothing is done until Sync, and exactly one ReadyForQuery
  answers each Sync and each Query.
- Statements between two Syncs, or in one Query string, are one transaction unless the client says
  BEGIN itself: an error undoes all of them. A statement that is followed by its Sync at once is
  its own transaction and pays nothing for this.
- A client that leaves cancels what runs for it.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from engine.errors import (
    CommitUnknown,
    FeatureNotSupported,
    ProtocolError,
    SextetError,
    SqlError,
)
from engine.faults.bysql import SqlFaults
from engine.pgwire import codec, types
from engine.pgwire.casts import without_casts
from engine.pgwire.codec import (
    BadText,
    Bind,
    Close,
    CopyData,
    Describe,
    Execute,
    Flush,
    FunctionCall,
    Message,
    Parse,
    Query,
    Startup,
    Sync,
    Terminate,
)
from engine.pgwire.implicit import Implicit, returns_what_it_wrote
from engine.pgwire.statements import (
    ROWS_PER_FETCH,
    Portal,
    Prepared,
    answer_only,
    prepare,
    spread_formats,
)
from engine.pgwire.utility import (
    REPORTED,
    Settings,
    answer,
    statements,
)
from engine.pgwire.wire import OutcomeLost, Wire
from engine.sql.cursor import Cursor
from engine.sql.session import Session
from engine.sql.statement import SqlValue, Statement

log = logging.getLogger(__name__)

STATEMENTS_MAX = 1000
"""Named statements a session may keep, and portals."""


class Connection:
    """Made once the start-up packet is read; `run` returns when the client is gone."""

    def __init__(
        self,
        wire: Wire,
        session: Session,
        startup: Startup,
        *,
        in_recovery: bool,
        pid: int,
        secret: int,
        faults: SqlFaults,
    ) -> None:
        self._wire = wire
        self._faults = faults
        self._session = session
        self._startup = startup
        self._pid = pid
        self._secret = secret
        self._settings = Settings(
            sql=session.settings,
            in_recovery=in_recovery,
            database=session.database,
            user=session.user,
            defaults=replace(session.settings),
            points=lambda: session.points,
            clock_us=session.wall_us,
        )
        self._statements: dict[str, Prepared] = {}
        self._portals: dict[str, Portal] = {}
        self._decoder = wire.decoder
        self._implicit = Implicit(session, wire.decoder)
        self._skipping = False
        wire.on_lost = session.cancel
        wire.owes, wire.settle = session.owes, session.settle

    # -- life

    async def run(self) -> None:
        """Serve the client. Raises ProtocolError for what is no PostgreSQL protocol."""
        try:
            if not await self._welcome():
                return
            wire = self._wire
            while (message := wire.take() or await wire.next()) is not None:
                if isinstance(message, Terminate):
                    return
                if not self._skipping or isinstance(message, Sync):
                    await self._handle(message)
        finally:
            await self._session.close()

    async def _welcome(self) -> bool:
        wire = self._wire
        options = [name for name in self._startup.parameters if name.startswith("_pq_.")]
        if self._startup.minor or options:
            wire.write(codec.negotiate_version(options))
        try:
            self._apply_startup()
        except SqlError as error:
            wire.write(_error(error, severity="FATAL"))
            await wire.flush()
            return False
        wire.write(codec.AUTHENTICATION_OK)
        for name, spelled in REPORTED.items():
            wire.write(codec.parameter_status(spelled, self._settings.show(name)))
        wire.write(codec.key_data(self._pid, self._secret))
        wire.write(codec.READY["I"])
        await wire.flush()
        return True

    def _apply_startup(self) -> None:
        """Settings in the start-up packet, directly or as `options=-c name=value`."""
        for name, value in self._startup.parameters.items():
            if name == "options":
                words = value.replace("-c ", "--").replace("-c", "--").split()
                pairs = [word.lstrip("-").partition("=")[::2] for word in words]
                for key, given in pairs:
                    self._settings.set(key.replace("-", "_").lower(), given)
            elif name not in ("user", "database", "replication") and not name.startswith("_pq_."):
                self._settings.set(name.lower(), value)
        self._settings.defaults = replace(self._settings.sql)

    async def _handle(self, message: Message) -> None:
        self._answer_later(self._decoder.more_follows())
        try:
            match message:
                case Query(sql):
                    await self._query(sql)
                case Parse():
                    await self._parse(message)
                case Bind():
                    await self._bind(message)
                case Describe():
                    await self._describe(message)
                case Execute():
                    await self._execute(message)
                case Close():
                    await self._close(message)
                case Sync():
                    await self._sync()
                case Flush():
                    await self._wire.flush()
                case BadText("Q", reason):
                    await self._refuse(SqlError(reason, sqlstate="22021"))
                case BadText(_, reason):
                    raise SqlError(reason, sqlstate="22021")
                case FunctionCall():
                    await self._refuse(FeatureNotSupported("function calls are not supported"))
                case CopyData() | Terminate():
                    return
        except ProtocolError:
            raise
        except SextetError as error:
            await self._session.fail()
            self._tell(error)
            self._skipping = True

    async def _refuse(self, error: SextetError) -> None:
        """What is not answered at a Sync is answered here, whole."""
        await self._session.fail()
        self._tell(error)
        try:
            await self._implicit.end(commit=False)
        except SextetError as second:
            log.debug("and the rollback: %s", second)  # the client has been told of the first
        await self._ready()
        await self._wire.flush()

    def _tell(self, error: SextetError) -> None:
        """Raises OutcomeLost: who does not know what became of a commit is told so whatever comes, and
        cannot be told first what that transaction has read."""
        if isinstance(error, CommitUnknown) and self._session.owes():
            raise OutcomeLost(str(error)) from error
        self._wire.write(_error(error))

    # -- simple protocol

    async def _query(self, sql: str) -> None:
        try:
            if len(sql) > self._session.sql_bytes_max:
                raise SqlError(f"a query of {len(sql)} characters is too long", sqlstate="54000")
            parts = list(statements(sql))
            if not parts:
                self._wire.write(codec.EMPTY_QUERY)
            for number, part in enumerate(parts, 1):
                await self._implicit.begin(len(parts) > 1)
                await self._run_simple(part, last=number == len(parts))
            await self._implicit.end(commit=True)
        except ProtocolError:
            raise
        except SextetError as error:
            await self._refuse(error)
            return
        await self._ready()
        await self._wire.flush()

    async def _run_simple(self, sql: str, *, last: bool) -> None:
        if answer_only(sql, self._settings):
            await self._answer(sql, described=False)
            return
        prepared = await prepare(self._session, self._settings, sql)
        statement = prepared.statement
        assert statement is not None
        if not statement.verb:
            self._wire.write(codec.EMPTY_QUERY)
            return
        if self._implicit.takes_over(statement):
            self._wire.write(codec.command_complete(statement.verb))
            return
        await self._implicit.begin(returns_what_it_wrote(statement))
        self._answer_later(not last)
        portal = Portal(prepared, (), ())
        with self._calls(statement):
            try:
                cursor = await portal.start(self._session)
                if statement.columns:
                    shape = await portal.learn_shape(self._session)
                    self._wire.write(shape.description)
                await self._send_rows(portal, 0)
            finally:
                await portal.close()
        if last:
            await self._implicit.end(commit=True)
        self._complete(cursor)

    def _answer_later(self, more: bool) -> None:
        """Where more is to be done before the client can have a say, its answers wait for all of it: a
        transaction that has come whole does not hold the write lock through a round trip to storage."""
        self._session.answer_later(more or self._implicit.open)

    def _calls(self, statement: Statement) -> AbstractContextManager[None]:
        """A query and the sending of its rows are one call, with one time limit. What has written is
        not: it may have committed, and must not be called cancelled any more."""
        return self._session.running() if statement.readonly else nullcontext()

    async def _send_rows(self, portal: Portal, rows_max: int) -> bool:
        """Send up to `rows_max` rows (0: all); whether the portal is at its end."""
        left = rows_max or -1
        while left:
            count = ROWS_PER_FETCH if left < 0 else min(left, ROWS_PER_FETCH)
            rows = await portal.rows(self._session, count)
            if rows:
                shape = await portal.learn_shape(self._session)
                await self._wire.write_much(shape.encode(rows))
                left -= len(rows) if left > 0 else 0
            if portal.done:
                return True
            if self._wire.lost:
                raise SqlError("the client went away", sqlstate="08006")
        return False

    def _complete(self, cursor: Cursor, tag: str = "") -> None:
        if cursor.notice is not None:
            self._wire.write(codec.notice(cursor.notice.sqlstate, cursor.notice.message))
        self._wire.write(codec.command_complete(tag or cursor.tag))

    # -- statements that SQLite is not asked

    async def _answer(self, sql: str, *, described: bool) -> None:
        self._session.refuse_in_failed()
        reply = answer(sql, self._settings)
        assert reply is not None
        wire = self._wire
        tag = reply.tag
        if reply.read_only is not None:
            self._session.set_read_only(reply.read_only)
        if reply.notice:
            wire.write(codec.notice("00000", reply.notice, severity="NOTICE"))
        if reply.instead is not None:
            statement = await self._session.prepare(without_casts(reply.instead))
            cursor = await self._session.execute(statement)
            tag = tag or cursor.tag
            await cursor.close()
        if reply.forget is not None:
            await self._forget(reply.forget)
        rows = reply.rows if reply.fault is None else self._faults.run(reply.fault)
        if reply.columns:
            if not described:
                wire.write(_text_columns(reply.columns))
            for row in rows:
                wire.write(codec.data_row([None if v is None else v.encode() for v in row]))
        wire.write(codec.command_complete(tag))
        if reply.changed is not None:
            name, value = reply.changed
            wire.write(codec.parameter_status(REPORTED[name], value))

    async def _forget(self, name: str) -> None:
        if name == "*":
            self._statements.clear()
        else:
            self._statements.pop(name, None)

    # -- extended protocol

    async def _parse(self, message: Parse) -> None:
        if message.name and message.name in self._statements:
            raise SqlError(f'prepared statement "{message.name}" already exists', sqlstate="42P05")
        if len(self._statements) >= STATEMENTS_MAX and message.name:
            raise SqlError(f"more than {STATEMENTS_MAX} prepared statements", sqlstate="53400")
        self._statements[message.name] = await prepare(
            self._session, self._settings, message.sql, message.oids
        )
        self._wire.write(codec.PARSE_COMPLETE)

    async def _bind(self, message: Bind) -> None:
        prepared = self._statement(message.statement)
        if message.portal and message.portal in self._portals:
            raise SqlError(f'portal "{message.portal}" already exists', sqlstate="42P03")
        if len(self._portals) >= STATEMENTS_MAX:
            raise SqlError(f"more than {STATEMENTS_MAX} portals", sqlstate="53400")
        count = prepared.statement.parameters if prepared.statement is not None else 0
        if len(message.values) != count:
            raise SqlError(
                f"bind message supplies {len(message.values)} parameters, but prepared statement "
                f'"{message.statement}" requires {count}',
                sqlstate="08P01",
            )
        values: tuple[SqlValue, ...] = ()
        if count:
            oids = await prepared.parameter_oids(self._session)
            formats = spread_formats(message.formats, count)
            values = tuple(
                [
                    None if data is None else types.decode(oid, code, data, at + 1)
                    for at, (oid, code, data) in enumerate(
                        zip(oids, formats, message.values, strict=True)
                    )
                ]
            )
        await self._drop_portal(message.portal)
        self._portals[message.portal] = Portal(prepared, values, message.result_formats)
        self._wire.write(codec.BIND_COMPLETE)

    def _statement(self, name: str) -> Prepared:
        found = self._statements.get(name)
        if found is None:
            raise SqlError(f'prepared statement "{name}" does not exist', sqlstate="26000")
        return found

    def _portal(self, name: str) -> Portal:
        found = self._portals.get(name)
        if found is None:
            raise SqlError(f'portal "{name}" does not exist', sqlstate="34000")
        return found

    async def _describe(self, message: Describe) -> None:
        if message.kind == "S":
            prepared = self._statement(message.name)
            oids = await prepared.parameter_oids(self._session)
            self._wire.write(codec.parameter_description(oids))
            await self._describe_result(Portal(prepared, (), ()), promise=True)
        elif message.kind == "P":
            await self._describe_result(self._portal(message.name), promise=False)
        else:
            raise ProtocolError(f"describe of {message.kind!r}")

    async def _describe_result(self, portal: Portal, *, promise: bool) -> None:
        prepared = portal.prepared
        if prepared.statement is None:
            reply = answer(prepared.sql, self._settings.probe())
            columns = reply.columns if reply is not None else ()
            self._wire.write(_text_columns(columns) if columns else codec.NO_DATA)
        elif not prepared.statement.columns:
            self._wire.write(codec.NO_DATA)
        else:
            if promise:
                await prepared.learn(self._session)
                prepared.described = True
            else:
                await self._implicit.begin_for_batch(prepared, executes=1)
            shape = await portal.learn_shape(self._session)
            self._wire.write(shape.description)

    async def _execute(self, message: Execute) -> None:
        portal = self._portal(message.portal)
        prepared = portal.prepared
        statement = prepared.statement
        if statement is None:
            await self._implicit.begin_for_batch(prepared)
            await self._answer(prepared.sql, described=True)
            return
        if not statement.verb:
            self._wire.write(codec.EMPTY_QUERY)
            return
        if self._implicit.takes_over(statement):
            self._wire.write(codec.command_complete(statement.verb))
            return
        if portal.cursor is None:
            await self._implicit.begin_for_batch(prepared)
        with self._calls(statement):
            cursor = await portal.start(self._session)
            ended = await self._send_rows(portal, message.rows_max)
        if not ended:
            self._wire.write(codec.PORTAL_SUSPENDED)
            return
        await self._implicit.end_if_sync_follows()
        self._complete(cursor)

    async def _close(self, message: Close) -> None:
        if message.kind == "S":
            self._statements.pop(message.name, None)
        elif message.kind == "P":
            await self._drop_portal(message.name)
        else:
            raise ProtocolError(f"close of {message.kind!r}")
        self._wire.write(codec.CLOSE_COMPLETE)

    async def _drop_portal(self, name: str) -> None:
        portal = self._portals.pop(name, None)
        if portal is not None:
            await portal.close()

    async def _sync(self) -> None:
        failed, self._skipping = self._skipping, False
        try:
            await self._implicit.end(commit=not failed)
        except SextetError as error:
            self._tell(error)
        await self._ready()

    async def _ready(self) -> None:
        if self._session.status == "I":
            for name in list(self._portals):
                await self._drop_portal(name)
            self._settings.end_transaction()
        self._wire.write(codec.READY[self._session.status])


def _text_columns(names: tuple[str, ...]) -> bytes:
    return codec.row_description([(name, types.TEXT, -1, 0) for name in names])


def _error(error: SextetError, *, severity: str = "ERROR") -> bytes:
    hint = error.hint if isinstance(error, SqlError) else ""
    position = error.position if isinstance(error, SqlError) else 0
    return codec.error(error.sqlstate, str(error), hint=hint, position=position, severity=severity)
