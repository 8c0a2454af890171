"""The replay oracle: the committed log applied to a plain SQLite file, and what that contains.

It shares with the database only how a frame is decoded and a record applied. No quorum, cache,
segment or recovery is in it, so what a session was shown can be compared with what the log says.

Kinds
- log-gap: a record's back-link does not name the record before it.
- log-differs: two frames hold one record with different contents (G4).
- integrity: SQLite finds the file at a commit damaged.
- content: a table that a session read at a commit is not the table in that file (G5).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

from cluster.sim.checkers import Findings, Violation
from engine.log.apply import apply_record
from engine.log.frame import decode_frame
from engine.log.record import Record
from engine.types import LSN, ZERO_PAGE, CommitMark, NodeId, PageNo, Truncation

CHECKER = "oracle"

SqlValue: TypeAlias = int | float | str | bytes | None
Row: TypeAlias = tuple[SqlValue, ...]

EMPTY = CommitMark(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Observation:
    """What somebody saw of the database as of `read_lsn`, the LSN of a commit.

    `tables`: name -> its rows in any order, or their `digest`.
    """

    read_lsn: LSN
    tables: Mapping[str, Sequence[Row] | str]
    node: NodeId = ""
    at: float | None = None
    whole: bool = False
    """`tables` are all that there were."""


class CommittedLog:
    """A volume's records in order, without duplicates and without what recoveries annulled."""

    def __init__(
        self,
        records: Iterable[Record],
        truncations: Sequence[Truncation] = (),
        findings: Findings | None = None,
    ) -> None:
        """Problems of the log itself go to `findings`; without it they raise ValueError."""
        self._findings = findings
        by_lsn: dict[LSN, Record] = {}
        for record in records:
            if any(t.annuls(lsn=record.lsn, epoch=record.epoch) for t in truncations):
                continue
            other = by_lsn.setdefault(record.lsn, record)
            if other != record:
                self._problem("log-differs", f"record {record.lsn} has two contents", record.lsn)
        self.records = [by_lsn[lsn] for lsn in sorted(by_lsn)]
        self.commits = [r.commit for r in self.records if r.commit is not None]
        before = 0
        for record in self.records:
            if record.prev_lsn != before:
                self._problem(
                    "log-gap",
                    f"record {record.lsn} follows {record.prev_lsn}, but {before} is before it",
                    record.lsn,
                )
            before = record.lsn

    @classmethod
    def from_frames(
        cls,
        frames: Iterable[bytes],
        truncations: Sequence[Truncation] = (),
        findings: Findings | None = None,
    ) -> CommittedLog:
        """From any nodes' frames, in any order, as often as they come."""
        unique = dict.fromkeys(frames)
        return cls((r for f in unique for r in decode_frame(f)), truncations, findings)

    def _problem(self, kind: str, message: str, lsn: LSN) -> None:
        if self._findings is None:
            raise ValueError(message)
        self._findings.add(kind, message, lsns=(lsn,))


class Oracle:
    """Database files as of commits. Asked in ascending order it applies every record once."""

    def __init__(self, log: CommittedLog) -> None:
        self.log = log
        self._marks = {mark.lsn: mark for mark in (EMPTY, *log.commits)}
        self._reset()

    def _reset(self) -> None:
        self._pages: dict[PageNo, bytes] = {}
        self._applied = 0  # records
        self._at: LSN = 0

    def is_commit(self, lsn: LSN) -> bool:
        return lsn in self._marks

    def image(self, lsn: LSN) -> bytes:
        """The database file as of the commit `lsn`, 0 = before the first. KeyError if it is none."""
        mark = self._marks[lsn]
        if lsn < self._at:
            self._reset()
        records = self.log.records
        while self._applied < len(records) and records[self._applied].lsn <= lsn:
            record = records[self._applied]
            self._pages[record.page] = apply_record(self._pages.get(record.page), record)
            self._applied += 1
        self._at = lsn
        return b"".join(self._pages.get(page, ZERO_PAGE) for page in range(mark.pages))

    def open(self, lsn: LSN) -> sqlite3.Connection:
        """The same in SQLite, in memory; the caller closes it."""
        connection = sqlite3.connect(":memory:")
        if image := self.image(lsn):
            connection.deserialize(image)
        return connection

    def problems(self, lsn: LSN) -> list[str]:
        """What SQLite's integrity check says about the file, empty if it is whole."""
        with closing(self.open(lsn)) as connection:
            try:
                found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
            except sqlite3.DatabaseError as error:
                return [str(error)]
        return [] if found == ["ok"] else found

    def tables(self, lsn: LSN) -> dict[str, list[Row]]:
        """Every table's rows, sorted; SQLite's own and virtual ones are left out."""
        with closing(self.open(lsn)) as connection:
            return read_tables(connection)


def check(oracle: Oracle, observations: Iterable[Observation]) -> list[Violation]:
    """Compare what was seen with what the log says, and check the file at each commit seen.

    Problems of the log itself are in the findings that were given to `CommittedLog`.
    """
    findings = Findings(CHECKER)
    ordered = sorted(enumerate(observations), key=lambda o: (o[1].read_lsn, o[0]))
    sound: LSN | None = None  # the newest commit found whole
    tables: dict[str, list[Row]] = {}
    for _, seen in ordered:
        if not oracle.is_commit(seen.read_lsn):
            _content(seen, f"read at {seen.read_lsn}, which is no commit of the log", findings)
            continue
        if seen.read_lsn != sound:
            problems = oracle.problems(seen.read_lsn)
            if problems:
                findings.add(
                    "integrity",
                    f"the file as of {seen.read_lsn}: {'; '.join(problems[:3])}",
                    lsns=(seen.read_lsn,),
                )
                continue
            sound, tables = seen.read_lsn, oracle.tables(seen.read_lsn)
        _compare(seen, tables, findings)
    return findings.found


def _compare(seen: Observation, tables: Mapping[str, list[Row]], findings: Findings) -> None:
    for name in sorted(tables.keys() | seen.tables.keys() if seen.whole else seen.tables.keys()):
        rows, found = tables.get(name), seen.tables.get(name)
        if rows is None:
            _content(seen, f"table {name} was seen, but does not exist", findings)
        elif found is None:
            _content(seen, f"table {name} exists, but was not seen", findings)
        elif isinstance(found, str):
            if found != digest(rows):
                _content(seen, f"table {name} differs from the log's {len(rows)} rows", findings)
        elif (ordered := sort_rows(found)) != rows:
            _content(seen, f"table {name} {_difference(ordered, rows)}", findings)


def _difference(seen: Sequence[Row], right: Sequence[Row]) -> str:
    extra = [row for row in seen if row not in right]
    absent = [row for row in right if row not in seen]
    return (
        f"has {len(seen)} rows where the log has {len(right)};"
        f" only seen {extra[:3]}, only in the log {absent[:3]}"
    )


def _content(seen: Observation, what: str, findings: Findings) -> None:
    nodes = (seen.node,) if seen.node else ()
    findings.add("content", what, lsns=(seen.read_lsn,), nodes=nodes, at=seen.at)


# -- tables


def read_tables(connection: sqlite3.Connection) -> dict[str, list[Row]]:
    """Name -> sorted rows of every table that an application made."""
    names = [
        str(row[0])
        for row in connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%'"
            " ESCAPE '\\' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
        )
    ]
    found = {}
    for name in names:
        quoted = name.replace('"', '""')
        found[name] = sort_rows(connection.execute(f'SELECT * FROM "{quoted}"').fetchall())
    return found


def sort_rows(rows: Iterable[Sequence[SqlValue]]) -> list[Row]:
    """In an order that depends on the values alone, whatever their types."""
    return sorted((tuple(row) for row in rows), key=lambda row: [_rank(v) for v in row])


def digest(rows: Iterable[Sequence[SqlValue]]) -> str:
    """Equal for equal rows in any order."""
    return hashlib.sha256(repr(sort_rows(rows)).encode()).hexdigest()


def _rank(value: SqlValue) -> tuple[int, float, str, bytes]:
    match value:
        case None:
            return 0, 0, "", b""
        case int() | float():
            return 1, value, type(value).__name__, b""
        case str():
            return 2, 0, value, b""
        case bytes():
            return 3, 0, "", value
