"""Statements whose answer is the same whatever the tables hold: a plain INSERT says "INSERT 0 1".

Its program, as EXPLAIN lists it, reads no row: it makes new rows of given values under row numbers of
SQLite's choice, and checks nothing that another row could break. So nobody learns from its answer of
anything that it was built on, unless of the schema; it may be told before that is durable. What it has
read on the way (where the table ends) may show later, so it counts for what follows. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_OPCODE, _P4 = 1, 5

_HARMLESS: Final = """
    Init Transaction Goto Halt Noop Explain Once Close OpenWrite InitCoroutine Yield EndCoroutine
    Variable Integer Int64 Real String String8 Blob Null SoftNull Copy SCopy IntCopy Move ReleaseReg
    Function PureFunc Affinity RealAffinity Cast TypeCheck HaltIfNull MakeRecord NewRowid Insert IdxInsert
"""
"""Not among them: NotExists, NoConflict and Found, which uniqueness and foreign keys are checked with;
Program, a trigger; Column, Rowid and ResultRow, for what is read or returned; comparisons, as in CHECK."""

_BLIND: Final = frozenset(_HARMLESS.split())
_FUNCTIONS: Final = ("Function", "PureFunc")
_REMEMBERING: Final = frozenset({"last_insert_rowid", "changes", "total_changes"})
"""They tell of earlier statements, and by failing or not an INSERT may tell of them."""


def is_blind(program: Iterable[Sequence[object]]) -> bool:
    """Whether it reads nothing that its answer could show. `program`: the rows of EXPLAIN."""
    return all(
        row[_OPCODE] in _BLIND
        and (row[_OPCODE] not in _FUNCTIONS or _name(row[_P4]) not in _REMEMBERING)
        for row in program
    )


def _name(function: object) -> str:
    return str(function).partition("(")[0].lower()
