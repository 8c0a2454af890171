"""What a statement's program, as EXPLAIN lists it, says of what its answer rests on. Pure.

Blind is a statement whose answer is the same whatever the tables hold: a plain INSERT says "INSERT 0 1".
Its program reads no row: it makes new rows of given values under row numbers of SQLite's choice, and
checks nothing that another row could break. So nobody learns from its answer of anything that it was
built on, unless of the schema. What it has read on the way (where the table ends) may show later.

A statement remembers if it tells what the connection knows of earlier ones besides the database: the last
row number, counts of changes, temporary tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_OPCODE, _P2, _P3, _P4 = 1, 3, 4, 5

_HARMLESS: Final = """
    Init Transaction Goto Halt Noop Explain Once Close OpenWrite InitCoroutine Yield EndCoroutine
    Variable Integer Int64 Real String String8 Blob Null SoftNull Copy SCopy IntCopy Move ReleaseReg
    Affinity RealAffinity Cast TypeCheck HaltIfNull MakeRecord NewRowid Insert IdxInsert
"""
"""Not among them: NotExists, NoConflict and Found, which uniqueness and foreign keys are checked with;
Program, a trigger; Column, Rowid and ResultRow, for what is read or returned; comparisons, as in CHECK."""

_PURE: Final = """
    current_timestamp current_date current_time datetime date time julianday unixepoch strftime
    random randomblob zeroblob hex abs lower upper trim length round printf format json jsonb
"""
"""Of SQLite's functions those that are known to look at their arguments and a clock only. Others may run
SQL of their own or tell of earlier statements, if only by failing or not."""

_BLIND: Final = frozenset(_HARMLESS.split())
_FUNCTIONS: Final = frozenset({"Function", "PureFunc"})
_KNOWN: Final = frozenset(_PURE.split())
_REMEMBERING: Final = frozenset({"last_insert_rowid", "changes", "total_changes"})
_OPENS: Final = frozenset({"OpenRead", "OpenWrite", "ReopenIdx"})
_TEMPORARY = 1
"""SQLite's number of the database that temporary tables are in."""
_SCHEMA_ROOT = 1
"""The page of the table that lists them."""

Program = Iterable[Sequence[object]]
"""The rows of EXPLAIN."""


def is_blind(program: Program) -> bool:
    """Whether it reads nothing that its answer could show."""
    return all(
        row[_OPCODE] in _BLIND or (row[_OPCODE] in _FUNCTIONS and _name(row[_P4]) in _KNOWN)
        for row in program
    )


def remembers(program: Program) -> bool:
    """Whether its answer may tell of statements before it by other ways than the database."""
    return any(
        (row[_OPCODE] in _FUNCTIONS and _name(row[_P4]) in _REMEMBERING)
        or (row[_OPCODE] in _OPENS and row[_P3] == _TEMPORARY and row[_P2] != _SCHEMA_ROOT)
        for row in program
    )


def _name(function: object) -> str:
    return str(function).partition("(")[0].lower()
