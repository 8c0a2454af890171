"""Statements that a session has prepared, and whether what was said of them still holds.

SQLite prepares a statement again by itself when the schema has changed. What it cannot mend is that
the client was told which columns to expect, so metadata is remembered together with the schema that
it was true for: page 1's schema cookie at the read point, and a count of this session's own changes,
which are not in any page before they commit.
"""

from __future__ import annotations

from dataclasses import replace

from engine.errors import SqlError
from engine.sql.bridge import run_sync
from engine.sql.connection import Connection, Described
from engine.sql.errors import PLAN_CHANGED
from engine.sql.pool import BufferPool
from engine.sql.statement import SchemaToken, Statement, verb_of
from engine.sql.tokens import REMEMBERED_CHARS_MAX, number_parameters
from engine.sql.transaction import recognise

_COOKIE = slice(40, 44)  # in page 1


class PreparedStatements:
    """Text -> Statement, bounded; the oldest goes first."""

    def __init__(self, pool: BufferPool, capacity: int) -> None:
        self.schema_changes = 0
        """To be counted up after whatever changed the schema, or undid a change, in this session."""
        self._pool = pool
        self._capacity = capacity
        self._known: dict[str, Statement] = {}
        self._loaded: SchemaToken | None = None  # what the connection has read, at least

    async def prepare(self, connection: Connection, sql: str) -> Statement:
        """The first statement of `sql`. Raises what SQLite raises, and SqlError."""
        known = self._known.get(sql)
        if known is not None and (known.control or self._holds(connection, known)):
            return known
        recognised = recognise(sql)
        if recognised is not None:
            control, end = recognised
            verb, tail = control.verb.value, _tail(sql[end:])
            statement = Statement(sql, 0, (), True, verb, tail, sql[:end], control)
        else:
            schema, described = await self._describe(connection, number_parameters(sql))
            statement = Statement(
                sql,
                described.parameters,
                described.columns,
                described.readonly or described.explain,
                verb_of(described.text),
                _tail(sql[len(described.text) :]),
                described.text,
                schema=schema,
            )
        self._remember(statement)
        return statement

    async def check_columns(self, connection: Connection, statement: Statement) -> None:
        """Raises SqlError if it would return other columns now than its client was told."""
        if self._holds(connection, statement):
            return
        schema = self._schema(connection)
        known = self._known.get(statement.sql)
        if known is None or schema is None or known.schema != schema:
            schema, described = await self._describe(connection, statement.text)
            known = replace(statement, columns=described.columns, schema=schema)
            self._remember(known)
        if [c.name for c in known.columns] != [c.name for c in statement.columns]:
            raise SqlError("cached plan must not change result type", sqlstate=PLAN_CHANGED)

    async def _describe(
        self, connection: Connection, text: str
    ) -> tuple[SchemaToken | None, Described]:
        schema = self._schema(connection)
        if connection.file.mark is None and (schema is None or schema != self._loaded):
            await run_sync(connection.forget_schema)
        described = await run_sync(connection.describe, text)
        self._loaded = schema
        return schema, described

    def _remember(self, statement: Statement) -> None:
        known = self._known
        known.pop(statement.sql, None)
        if len(statement.sql) <= REMEMBERED_CHARS_MAX:
            if len(known) >= self._capacity:
                del known[next(iter(known))]
            known[statement.sql] = statement

    def _holds(self, connection: Connection, statement: Statement) -> bool:
        """Whether what was said of it is known to be true still."""
        schema = statement.schema
        return schema is not None and schema == self._schema(connection)

    def _schema(self, connection: Connection) -> SchemaToken | None:
        """What a statement run now would meet; None if that cannot be told without waiting."""
        file = connection.file
        mark = file.mark or file.next_mark
        if not mark.pages:
            return 0, self.schema_changes
        page = self._pool.get_nowait(0, mark.lsn)
        if page is None:
            return None
        return int.from_bytes(page[_COOKIE], "big"), self.schema_changes


def _tail(rest: str) -> str:
    return rest if rest.strip() else ""
