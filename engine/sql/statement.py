"""A prepared statement as clients see it: parameters, columns, kind. And its command tag. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from engine.errors import SqlError
from engine.sql.errors import OUT_OF_RANGE
from engine.sql.tokens import tokens
from engine.sql.transaction import Control

SqlValue: TypeAlias = int | float | str | bytes | None
"""What a parameter or a column holds. bool is an int: SQLite has no booleans."""

Row: TypeAlias = tuple[SqlValue, ...]

SchemaToken: TypeAlias = tuple[int, int]
"""(schema cookie at the read point, changes that the session made to it since it began)"""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    decltype: str | None
    """As the table declares it; None for an expression."""


@dataclass(frozen=True, slots=True)
class Statement:
    """The first statement of a text, ready to run."""

    sql: str
    """The whole text that was prepared."""
    parameters: int
    """How many values `execute` takes."""
    columns: tuple[Column, ...]
    """Of its rows; empty if it returns none."""
    readonly: bool
    verb: str
    """"SELECT", "INSERT", "CREATE TABLE", "BEGIN" ...; "" for no statement at all."""
    tail: str
    """The text after it, "" if it is the last."""
    text: str = ""
    """What SQLite runs: without the tail, with `?1` for `$1`."""
    control: Control | None = None
    """Set for transaction statements, which SQLite does not get as they are."""
    schema: SchemaToken | None = None
    """What `columns` were true for."""

    @property
    def counts_changes(self) -> bool:
        return self.verb in _COUNTED


_COUNTED: Final = frozenset({"INSERT", "UPDATE", "DELETE"})
_MAIN: Final = frozenset({"SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE"})
_AS: Final = {"VALUES": "SELECT", "REPLACE": "INSERT"}
_ADJECTIVES: Final = frozenset({"TEMP", "TEMPORARY", "UNIQUE", "VIRTUAL"})


def verb_of(text: str) -> str:
    """What kind of statement this is, in PostgreSQL's words where it has one."""
    words = (token for token in tokens(text) if token.text != ";")
    first = next(words, None)
    if first is None:
        return ""
    verb = first.upper
    if verb == "WITH":
        depth = 0
        for token in words:
            depth += (token.text == "(") - (token.text == ")")
            if depth == 0 and token.kind == "word" and token.upper in _MAIN:
                verb = token.upper
                break
    elif verb in ("CREATE", "DROP", "ALTER"):
        for token in words:
            if token.upper not in _ADJECTIVES:
                return f"{verb} {token.upper}"
    return _AS.get(verb, verb)


def tag_of(verb: str, count: int) -> str:
    """PostgreSQL's command tag: `count` rows returned or changed."""
    match verb:
        case "INSERT":
            return f"INSERT 0 {count}"  # the zero was an OID once
        case "SELECT" | "UPDATE" | "DELETE":
            return f"{verb} {count}"
        case _:
            return verb


_TYPES: Final = frozenset({type(None), int, float, str, bytes, bool})


def check_values(values: Sequence[SqlValue], statement: Statement) -> None:
    """Raises SqlError for what SQLite could not store as it is."""
    if len(values) != statement.parameters:
        raise SqlError(
            f"the statement takes {statement.parameters} parameters, {len(values)} were given",
            sqlstate="08P01",
        )
    for number, value in enumerate(values, 1):
        if type(value) not in _TYPES:
            raise SqlError(
                f"parameter ${number} is a Python {type(value).__name__}, not None, int, float,"
                " str, bytes or bool",
                sqlstate="42804",
            )
        if value != value:  # NaN: SQLite would silently store NULL
            raise SqlError(
                f"parameter ${number} is NaN, which SQLite has no value for", sqlstate=OUT_OF_RANGE
            )
