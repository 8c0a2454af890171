"""Results of SQL: as a table, as tab-separated values, as JSON."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from rich.markup import escape
from rich.table import Table

from cluster.cli.console import out

ROWS_SHOWN = 1000
"""A terminal gets no longer table than this; whoever wants all of it uses a pipe."""

Cursor = psycopg.Cursor[tuple[Any, ...]]

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def columns_of(cursor: Cursor) -> list[str]:
    return [column.name for column in cursor.description or ()]


def print_table(cursor: Cursor, elapsed_s: float) -> None:
    """One result for people: its rows, or the command's tag."""
    if cursor.description is None:
        out.print(f"[dim]{cursor.statusmessage or ''}  ({elapsed_s * 1000:.1f} ms)[/dim]")
        return
    rows = cursor.fetchall()
    table = Table()
    for number, name in enumerate(columns_of(cursor)):
        numeric = bool(rows) and all(
            isinstance(row[number], int | float | None) for row in rows[:50]
        )
        table.add_column(escape(name), justify="right" if numeric else "left")
    for row in rows[:ROWS_SHOWN]:
        table.add_row(*(_cell(value) for value in row))
    out.print(table)
    more = f", the first {ROWS_SHOWN} are shown" if len(rows) > ROWS_SHOWN else ""
    plural = "" if len(rows) == 1 else "s"
    out.print(f"[dim]({len(rows)} row{plural}{more}, {elapsed_s * 1000:.1f} ms)[/dim]")


def _cell(value: object) -> str:
    return "[dim]NULL[/dim]" if value is None else escape(plain(value))


def plain(value: object) -> str:
    """A value as text; bytes as PostgreSQL writes them."""
    match value:
        case None:
            return ""
        case bool():
            return "t" if value else "f"
        case bytes():
            return "\\x" + value.hex()
        case _:
            return str(value)


def print_tsv(cursor: Cursor) -> None:
    """Rows for programs: tabs between columns, `\\N` for NULL, escapes as in COPY. No header."""
    if cursor.description is None:
        return
    for row in cursor:
        sys.stdout.write("\t".join(_field(value) for value in row) + "\n")


def _field(value: object) -> str:
    match value:
        case None:
            return "\\N"
        case bytes():
            return plain(value)
        case _:
            return plain(value).translate(_ESCAPES)


def json_rows(names: Sequence[str], rows: Iterable[Sequence[object]]) -> list[dict[str, Any]]:
    """Rows as objects; bytes as {"base64": …}."""
    return [dict(zip(names, map(_json_value, row), strict=True)) for row in rows]


def _json_value(value: object) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {"base64": base64.b64encode(value).decode("ascii")}
        case _:
            return str(value)
