"""Results of SQL: as a table, as tab-separated values, as JSON."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

from cluster.cli.console import out

ROWS_SHOWN = 1000
"""A terminal gets no longer table than this; whoever wants all of it uses a pipe."""

COLUMN_MIN = 8
"""A column of a table is not made narrower than this, or than its longest value if that is shorter."""

FRAME = 3  # what a column costs besides its content; the table itself costs one more

Cursor = psycopg.Cursor[tuple[Any, ...]]

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\n\t"}
"""What a value must not do to the terminal."""


def columns_of(cursor: Cursor) -> list[str]:
    return [column.name for column in cursor.description or ()]


def print_table(cursor: Cursor, elapsed_s: float) -> None:
    """One result for people: its rows, or the command's tag."""
    if cursor.description is None:
        out.print(f"[dim]{cursor.statusmessage or ''}  ({elapsed_s * 1000:.1f} ms)[/dim]")
        return
    rows = cursor.fetchall()
    print_rows(columns_of(cursor), rows[:ROWS_SHOWN])
    more = f", the first {ROWS_SHOWN} are shown" if len(rows) > ROWS_SHOWN else ""
    plural = "" if len(rows) == 1 else "s"
    out.print(f"[dim]({len(rows)} row{plural}{more}, {elapsed_s * 1000:.1f} ms)[/dim]")


def print_rows(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """As a table whose long values are folded, or row by row if not even that fits; never cut off."""
    widths = [
        min(COLUMN_MIN, max(cell_len(text) for text in (name, *(plain(row[n]) for row in rows))))
        for n, name in enumerate(names)
    ]
    if sum(width + FRAME for width in widths) + 1 > out.width:
        _print_records(names, rows)
        return
    table = Table()
    for number, name in enumerate(names):
        numeric = bool(rows) and all(
            isinstance(row[number], int | float | None) for row in rows[:50]
        )
        table.add_column(
            escape(name),
            justify="right" if numeric else "left",
            overflow="fold",
            min_width=widths[number],
        )
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    out.print(table)


def _print_records(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One column below the other, for rows with more columns than fit side by side."""
    for number, row in enumerate(rows, start=1):
        table = Table(title=f"row {number}", title_justify="left", show_header=False)
        table.add_column(overflow="fold", max_width=max(COLUMN_MIN, out.width // 3))
        table.add_column(overflow="fold")
        for name, value in zip(names, row, strict=True):
            table.add_row(escape(name), _cell(value))
        out.print(table)


def _cell(value: object) -> str:
    return "[dim]NULL[/dim]" if value is None else escape(plain(value).translate(_CONTROLS))


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
