"""Prepared statements and portals: a statement's types, and rows on their way to a client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.errors import SqlError
from engine.pgwire import codec, types
from engine.pgwire.casts import without_casts
from engine.pgwire.infer import NOTHING, Inferred, infer
from engine.pgwire.utility import Answer, Settings, answer, may_answer
from engine.sql.cursor import Cursor
from engine.sql.session import Session
from engine.sql.statement import Row, SqlValue, Statement

ROWS_PER_FETCH = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """A result's columns, ready for the wire: names, type oids, formats, encoders."""

    names: tuple[str, ...]
    oids: tuple[int, ...]
    formats: tuple[int, ...]
    encoders: tuple[types.Encoder, ...]
    description: bytes
    """The RowDescription message."""

    @classmethod
    def of(cls, names: Sequence[str], oids: Sequence[int], formats: Sequence[int]) -> Shape:
        spread = spread_formats(formats, len(names))
        encoders = tuple(types.encoder(o, f) for o, f in zip(oids, spread, strict=True))
        columns = [
            (name, oid, types.SIZES.get(oid, -1), code)
            for name, oid, code in zip(names, oids, spread, strict=True)
        ]
        described = codec.row_description(columns)
        return cls(tuple(names), tuple(oids), spread, encoders, described)

    def encode(self, rows: Sequence[Row]) -> bytes:
        """DataRow messages. Raises SqlError 42804 naming the column whose value does not fit."""
        encoders = self.encoders
        out = []
        for row in rows:
            try:
                values = [None if v is None else e(v) for v, e in zip(row, encoders, strict=True)]
            except SqlError as error:
                raise self._naming_column(row, error) from error
            out.append(codec.data_row(values))
        return b"".join(out)

    def _naming_column(self, row: Row, error: SqlError) -> SqlError:
        for value, encode, name in zip(row, self.encoders, self.names, strict=True):
            try:
                if value is not None:
                    encode(value)
            except SqlError:
                return SqlError(f'column "{name}": {error}', sqlstate=error.sqlstate)
        return error


def spread_formats(formats: Sequence[int], count: int) -> tuple[int, ...]:
    """Format codes as the protocol abbreviates them: none = all text, one = all the same."""
    if not formats:
        return (0,) * count
    if any(code not in (0, 1) for code in formats):
        raise SqlError("a format code is neither text nor binary", sqlstate="08P01")
    if len(formats) == 1:
        return (formats[0],) * count
    if len(formats) != count:
        raise SqlError(f"{len(formats)} result formats for {count} columns", sqlstate="08P01")
    return tuple(formats)


@dataclass
class Prepared:
    """A statement that Parse made. `statement` is None for what SQLite is not asked."""

    sql: str
    given_oids: tuple[int, ...]
    statement: Statement | None
    inferred: Inferred | None = None
    described: bool = False
    """Its result types have been promised to the client."""
    shapes: dict[tuple[int, ...], Shape] = field(default_factory=dict)
    _parameters: tuple[int, ...] | None = None
    _declared: tuple[int, ...] | None = None
    """Its result types, where its columns' declarations say all of them."""

    async def learn(self, session: Session) -> Inferred:
        """Infer types once."""
        if self.inferred is None:
            if self.statement is None or not self.statement.verb:
                self.inferred = NOTHING
            else:
                self.inferred = await infer(self.statement.text, session.column_types)
        return self.inferred

    async def parameter_oids(self, session: Session) -> tuple[int, ...]:
        if self._parameters is not None:
            return self._parameters
        count = self.statement.parameters if self.statement is not None else 0
        given = self.given_oids[:count] + (0,) * (count - len(self.given_oids))
        if not all(oid not in (0, types.UNKNOWN) for oid in given):
            inferred = await self.learn(session)
            given = tuple(
                oid if oid not in (0, types.UNKNOWN) else inferred.parameters.get(at, types.TEXT)
                for at, oid in enumerate(given)
            )
        self._parameters = given
        return given

    def result_oids(self, sample: Sequence[Row] | None = None) -> tuple[int, ...] | None:
        """Declared, else inferred, else by the sample's values; None if that is not enough yet."""
        if self._declared is not None:
            return self._declared
        assert self.statement is not None
        columns = self.statement.columns
        known = self.inferred.columns if self.inferred is not None else ()
        oids = []
        for at, column in enumerate(columns):
            if column.decltype is not None:
                oid: int | None = types.oid_of_decltype(column.decltype)
            else:
                oid = known[at] if len(known) == len(columns) else None
                if oid is None and sample is not None:
                    oid = types.oid_of_values(row[at] for row in sample)
            if oid is None:
                return None
            oids.append(oid)
        if all(column.decltype is not None for column in columns):
            self._declared = tuple(oids)
        return tuple(oids)

    def shape(self, oids: Sequence[int], formats: Sequence[int]) -> Shape:
        assert self.statement is not None
        key = (*oids, -1, *formats)
        made = self.shapes.get(key)
        if made is None:
            names = [column.name for column in self.statement.columns]
            made = self.shapes[key] = Shape.of(names, oids, formats)
        return made


async def prepare(
    session: Session, settings: Settings, sql: str, oids: tuple[int, ...] = ()
) -> Prepared:
    """Raises SqlError: syntax, unknown names, several statements in one."""
    if len(sql) > session.sql_bytes_max:  # before anybody looks at every word of it
        raise SqlError(f"a statement of {len(sql)} characters is too long", sqlstate="54000")
    if answer_only(sql, settings):
        return Prepared(sql, oids, None)
    statement = await session.prepare(without_casts(sql))
    if statement.tail.strip().strip(";").strip():
        raise SqlError(
            "cannot insert multiple commands into a prepared statement", sqlstate="42601"
        )
    return Prepared(sql, oids, statement)


def answer_only(sql: str, settings: Settings) -> bool:
    """Whether `sql` is answered without SQLite; asks on a copy, so that nothing is set by it."""
    return may_answer(sql) and answer(sql, settings.probe()) is not None


@dataclass
class Portal:
    """A statement bound to parameter values; its rows come in portions."""

    prepared: Prepared
    values: tuple[SqlValue, ...]
    formats: tuple[int, ...]
    cursor: Cursor | None = None
    shape: Shape | None = None
    ahead: list[Row] = field(default_factory=list)
    """Rows fetched to learn the columns' types, not sent yet."""
    answer: Answer | None = None
    finished: bool = False

    async def start(self, session: Session) -> Cursor:
        if self.cursor is None:
            assert self.prepared.statement is not None
            self.cursor = await session.execute(self.prepared.statement, self.values)
        return self.cursor

    async def learn_shape(self, session: Session) -> Shape:
        """Fix the columns' types, running the statement if nothing else tells them."""
        if self.shape is None:
            prepared = self.prepared
            assert prepared.statement is not None
            oids = prepared.result_oids()
            if oids is None and prepared.described:
                oids = prepared.result_oids(sample=[])
            if oids is None and (self.cursor is not None or prepared.statement.readonly):
                cursor = await self.start(session)
                self.ahead = await cursor.fetch(ROWS_PER_FETCH)
                oids = prepared.result_oids(self.ahead)
            if oids is None:
                await prepared.learn(session)
                oids = prepared.result_oids(sample=[])
            assert oids is not None
            self.shape = prepared.shape(oids, self.formats)
        return self.shape

    async def rows(self, session: Session, at_most: int) -> list[Row]:
        """The next rows, at most `at_most` of them."""
        if self.ahead:
            rows, self.ahead = self.ahead[:at_most], self.ahead[at_most:]
            return rows
        cursor = await self.start(session)
        return await cursor.fetch(at_most)

    @property
    def done(self) -> bool:
        return self.cursor is not None and self.cursor.done and not self.ahead

    async def close(self) -> None:
        if self.cursor is not None and not self.cursor.finished:
            await self.cursor.close()
