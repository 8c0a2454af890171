"""What both databases are asked to do: pgbench's tables and scripts, in words that both understand.

`pgbench -i` speaks to PostgreSQL only (TRUNCATE, COPY, fillfactor), so the tables are made here, of the
same columns and as many rows: 1 branch, 10 tellers and 100,000 accounts for each unit of scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ACCOUNTS = 100_000
TELLERS = 10

SCHEMA = (
    "CREATE TABLE pgbench_branches (bid INTEGER PRIMARY KEY, bbalance INTEGER, filler CHAR(88))",
    "CREATE TABLE pgbench_tellers (tid INTEGER PRIMARY KEY, bid INTEGER, tbalance INTEGER,"
    " filler CHAR(84))",
    "CREATE TABLE pgbench_accounts (aid INTEGER PRIMARY KEY, bid INTEGER, abalance INTEGER,"
    " filler CHAR(84))",
    "CREATE TABLE pgbench_history (tid INTEGER, bid INTEGER, aid INTEGER, delta INTEGER,"
    " mtime TIMESTAMP, filler CHAR(22))",
    "CREATE TABLE bench_load (id INTEGER PRIMARY KEY, a INTEGER, b TEXT)",
    "CREATE TABLE bench_insert (client INTEGER, a INTEGER, b TEXT)",
)

ROWS_PER_INSERT = 1000
FILLER = " " * 84


def fill(scale: int) -> Iterator[tuple[str, int]]:
    """Statements that fill the tables, and how many rows each makes; accounts by a thousand."""
    for bid in range(1, scale + 1):
        yield f"INSERT INTO pgbench_branches VALUES ({bid}, 0, '')", 1
    for tid in range(1, scale * TELLERS + 1):
        yield f"INSERT INTO pgbench_tellers VALUES ({tid}, {(tid - 1) // TELLERS + 1}, 0, '')", 1
    for first in range(1, scale * ACCOUNTS + 1, ROWS_PER_INSERT):
        values = ", ".join(
            f"({aid}, {(aid - 1) // ACCOUNTS + 1}, 0, '{FILLER}')"
            for aid in range(first, first + ROWS_PER_INSERT)
        )
        yield f"INSERT INTO pgbench_accounts VALUES {values}", ROWS_PER_INSERT


_ACCOUNT = "\\set aid random(1, 100000 * :scale)\n\\set delta random(-5000, 5000)\n"
_BRANCH = "\\set bid random(1, 1 * :scale)\n\\set tid random(1, 10 * :scale)\n"
_UPDATE = "UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n"
_LOOK = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
_TELLER = "UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;\n"
_BRANCHES = "UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;\n"
_HISTORY = (
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)"
    " VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);\n"
)


def _transaction(*statements: str) -> str:
    return "".join(("BEGIN;\n", *statements, "END;\n"))


def _pipelined(transaction: str) -> str:
    """All of it in one round trip."""
    return f"\\startpipeline\n{transaction}\\endpipeline\n"


@dataclass(frozen=True, slots=True)
class Work:
    """One row of the report. `script` is pgbench's; `goal` a ratio to PostgreSQL that we want to reach."""

    name: str
    script: str
    clients: tuple[int, ...]
    goal: float
    reads: bool = False
    """Spread over the writer and two replicas."""
    latency: bool = False
    """What counts is how long one takes, and less is better."""


_SIMPLE = _transaction(_UPDATE, _LOOK, _HISTORY)
_TPCB = _transaction(_UPDATE, _LOOK, _TELLER, _BRANCHES, _HISTORY)

WORKS = (
    Work("update", _ACCOUNT + _UPDATE, (16, 64), 3.0),
    Work(
        "insert",
        "\\set a random(1, 1000000)\nINSERT INTO bench_insert VALUES (:client_id, :a, 'some text');\n",
        (16, 64),
        3.0,
    ),
    Work("simple-update, one round trip", _ACCOUNT + _BRANCH + _pipelined(_SIMPLE), (16, 64), 3.0),
    Work("tpcb-like, one round trip", _ACCOUNT + _BRANCH + _pipelined(_TPCB), (16, 64), 3.0),
    Work("simple-update", _ACCOUNT + _BRANCH + _SIMPLE, (16, 64), 1.5),
    Work("tpcb-like", _ACCOUNT + _BRANCH + _TPCB, (16, 64), 1.5),
    Work("update", _ACCOUNT + _UPDATE, (1,), 1.0, latency=True),
    Work("select-only", _ACCOUNT + _LOOK, (16,), 1.0, reads=True),
)
