"""Restores at random points of the history of a real cluster whose writer is killed all the time.

    python -m benchmarks.real_restores [--points 30] [--transactions 300] [--seed 1]

One client commits, rolls back, changes the schema and writes transactions of a megabyte, while the
writer gets SIGKILL every now and then, so that another instance is named. It runs the same SQL on a SQLite
database of its own once it is committed, and keeps a hash of that after each commit. Then the archive is
restored, by the code of `sextet restore`, at points drawn over the whole history:

- by time, most of them between two commits, where the client itself knows which state it was;
- by LSN, at and beside commits and anywhere, which is mostly where a recovery cut off.

The commit that a point means is found by the times of commits in the archive, each of which must lie in
the time that exactly one of the client's commits took, and the contents must be those of that one. All but
two points are restored to files; these two as new clusters. One of them writes on, and is itself restored
as of the import and of its end.

Exit status 1 if anything differed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sqlite3
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from benchmarks.local import save
from cluster.cli.archives import find, opened
from cluster.cli.restore import make_file
from cluster.local.archiving import load_archive_state
from cluster.local.folder import Folder
from cluster.local.layout import MAIN, load
from cluster.testing import LocalCluster
from engine.archive.catalogue import Target
from engine.archive.chunks import commits_of
from engine.errors import ConfigError, SextetError
from engine.types import CommitMark

BACK_S = 60.0
KILL_SHARE = 0.04
"""Of all transactions the writer is killed during or right after so many."""

LARGE_ROWS, LARGE_BYTES = 1500, 700
TABLES = 4

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_us() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Commit:
    """One of the client's: number `number` was made between these two (Unix microseconds)."""

    number: int
    began_us: int
    ended_us: int
    state: str


def state_of(database: sqlite3.Connection) -> str:
    """A hash of all that is in it."""
    found = hashlib.sha256()
    schema = "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
    for kind, name, table in database.execute(schema).fetchall():
        found.update(repr((kind, name, table)).encode())
        if kind == "table":
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({name})").fetchall()]
            found.update(repr(columns).encode())
            for row in database.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall():
                found.update(repr(row).encode())
    return found.hexdigest()


def state_of_file(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        if database.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            return "no sound database"
        return state_of(database)


class Author:
    """Draws transactions, as SQL that means the same to SQLite and to the cluster."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._columns = 0
        self._indexes = 0

    def text(self, size: int) -> str:
        return f"{self._rng.getrandbits(64):016x}" * (size // 16)

    def draw(self, mirror: sqlite3.Connection) -> tuple[str, list[str]]:
        """(what it is, its statements), given what is committed by now."""
        rng = self._rng
        tables = [
            row[0]
            for row in mirror.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 't%' ORDER BY 1"
            )
        ]
        if len(tables) < 2:
            return "ddl", [self._table(tables)]
        table = rng.choice(tables)
        kind = rng.choices(
            ("insert", "update", "delete", "rollback", "savepoint", "ddl", "large"),
            (8, 5, 2, 2, 1, 2, 1),
        )[0]
        insert = f"INSERT INTO {table} (body) VALUES ('{self.text(64)}')"
        match kind:
            case "insert" | "rollback":
                return kind, [insert] * rng.randint(1, 20)
            case "update":
                rest = rng.randrange(5)
                return kind, [f"UPDATE {table} SET body = '{self.text(48)}' WHERE id % 5 = {rest}"]
            case "delete":
                return kind, [f"DELETE FROM {table} WHERE id % 7 = {rng.randrange(7)}"]
            case "savepoint":
                undone = [f"DELETE FROM {table}", insert]
                return kind, [insert, "SAVEPOINT s", *undone, "ROLLBACK TO s", "RELEASE s", insert]
            case "ddl":
                return kind, [self._change(tables, table)]
            case _:
                rows = ", ".join(f"('{self.text(LARGE_BYTES)}')" for _ in range(LARGE_ROWS // 10))
                return kind, [f"INSERT INTO {table} (body) VALUES {rows}"] * 10

    def _table(self, tables: Sequence[str]) -> str:
        name = next(f"t{n}" for n in range(TABLES + 1) if f"t{n}" not in tables)
        return f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, body TEXT)"

    def _change(self, tables: Sequence[str], table: str) -> str:
        choice = self._rng.randrange(4)
        if choice == 0 and len(tables) < TABLES:
            return self._table(tables)
        if choice == 1 and len(tables) > 2:
            return f"DROP TABLE {table}"
        if choice == 2:
            self._columns += 1
            return f"ALTER TABLE {table} ADD COLUMN c{self._columns} INTEGER"
        self._indexes += 1
        return f"CREATE INDEX i{self._indexes} ON {table} (body)"


@dataclass
class History:
    """What the client did and was told."""

    cluster: LocalCluster
    rng: random.Random
    commits: list[Commit] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mirror = sqlite3.connect(":memory:", isolation_level=None)
        self._author = Author(self.rng)
        self._connection: psycopg.Connection[Any] | None = None
        self._writers: list[str] = []

    def begin(self) -> None:
        self._commit(
            ["CREATE TABLE mark (number INTEGER PRIMARY KEY)", "INSERT INTO mark VALUES (0)"]
        )

    def run(self, transactions: int) -> None:
        """Raises ClusterDown if the cluster is not back in time."""
        for _ in range(transactions):
            kind, statements = self._author.draw(self.mirror)
            self.counts[kind] += 1
            killer = self._killer() if self.rng.random() < KILL_SHARE else None
            if kind == "rollback":
                self._roll_back(statements)
            else:
                number = len(self.commits)
                self._commit([*statements, f"UPDATE mark SET number = {number}"])
            if killer is not None:
                killer.join()

    def _killer(self) -> threading.Timer:
        """Somewhere in the transaction that begins now, or shortly after it."""
        timer = threading.Timer(self.rng.choice((0.0, 0.005, 0.02, 0.1)), self._kill)
        timer.start()
        return timer

    def _kill(self) -> None:
        try:
            self.cluster.fault.kill("writer", for_s=self.rng.choice((0.0, 4.0)))
        except ConfigError:
            return  # it is down
        self.counts["writers killed"] += 1

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self.cluster.writer_url, autocommit=True, connect_timeout=10
            )
        return self._connection

    def _roll_back(self, statements: Sequence[str]) -> None:
        try:
            self._execute(["BEGIN", *statements, "ROLLBACK"])
        except psycopg.Error:
            self._drop()

    def _commit(self, statements: Sequence[str]) -> None:
        """Until it is committed, once."""
        number = len(self.commits)
        deadline = time.monotonic() + BACK_S
        while True:
            began_us = now_us()
            try:
                self._execute(["BEGIN", *statements, "COMMIT"])
                break
            except psycopg.Error as error:
                self._drop()
                self.counts["errors"] += 1
                if self._is_committed(number, deadline, error):
                    self.counts["unknown outcomes that were commits"] += 1
                    break
        ended_us = now_us()
        for statement in ["BEGIN", *statements, "COMMIT"]:
            self.mirror.execute(statement)
        self.commits.append(Commit(number, began_us, ended_us, state_of(self.mirror)))

    def _execute(self, statements: Sequence[str]) -> None:
        connection = self._connected()
        for statement in statements:
            connection.execute(statement.encode())

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _is_committed(self, number: int, deadline: float, error: psycopg.Error) -> bool:
        """Of the commit whose outcome is unknown. Raises the error if nobody says so in time."""
        while True:
            try:
                row = self._connected().execute("SELECT max(number) FROM mark").fetchone()
                assert row is not None
                found = int(row[0])
            except psycopg.errors.UndefinedTable:
                found = -1
            except psycopg.Error:
                self._drop()
                if time.monotonic() > deadline:
                    raise error from None
                time.sleep(0.05)
                continue
            if found not in (number - 1, number):
                self.wrong.append(f"after commit {number - 1} the mark is {found}")
            return found == number


# -- points


@dataclass
class Timeline:
    """The archive's commits, each with the number of the client's."""

    marks: list[CommitMark]
    numbers: list[int]

    def by_lsn(self, lsn: int) -> int | None:
        """The client's last commit at or below it."""
        at = bisect_right([mark.lsn for mark in self.marks], lsn)
        return self.numbers[at - 1] if at else None

    def by_time(self, time_us: int) -> int | None:
        at = max((i for i, mark in enumerate(self.marks) if mark.time_us <= time_us), default=None)
        return None if at is None else self.numbers[at]


async def timeline(folder: Folder, history: History) -> Timeline:
    """Each commit of the archive is one of the client's, and the other way round, in the same order."""
    async with opened(folder, None) as objects:
        archive = await find(folder, objects, MAIN)
        chunks = [await archive.chunk(number) for number in archive.listing.chunks]
    marks = [mark for chunk in chunks for mark in commits_of(chunk)]
    numbers = []
    for mark in marks:
        own = [c.number for c in history.commits if c.began_us <= mark.time_us <= c.ended_us]
        if len(own) != 1:
            history.wrong.append(f"commit {mark} of the archive is no commit of the client: {own}")
        numbers += own[:1]
    if numbers != [commit.number for commit in history.commits]:
        history.wrong.append("the archive has other commits than the client, or in another order")
    return Timeline(marks, numbers)


def points(history: History, line: Timeline, count: int) -> list[tuple[Target, int | None, str]]:
    """(point, the number of the client's commit that it means, how it was drawn)."""
    rng, commits = history.rng, history.commits
    found: list[tuple[Target, int | None, str]] = []
    for turn in range(count):
        match turn % 6:
            case 0 | 1:  # the client alone knows what was then
                at = rng.randrange(len(commits) - 1)
                low, high = commits[at].ended_us, commits[at + 1].began_us
                moment = rng.randint(low, max(low, high - 1))
                found.append((Target(time_us=moment), commits[at].number, "between commits"))
            case 2:
                moment = rng.randint(commits[0].began_us, line.marks[-1].time_us)
                found.append((Target(time_us=moment), line.by_time(moment), "any time"))
            case 3 | 4:
                lsn = rng.choice(line.marks).lsn + rng.choice((-1, 0, 1))
                lsn = min(lsn, line.marks[-1].lsn)
                found.append((Target(lsn=lsn), line.by_lsn(lsn), "at a commit"))
            case _:
                lsn = rng.randint(line.marks[0].lsn, line.marks[-1].lsn)
                found.append((Target(lsn=lsn), line.by_lsn(lsn), "any LSN"))
    return found


def until_archived(cluster: LocalCluster, name: str, moment_us: int) -> None:
    """Raises ClusterDown."""

    def reached() -> bool:
        said = load_archive_state(Folder.at(cluster.folder), name)
        return said is not None and said.known_us >= moment_us

    cluster.until(reached, f"the archive of {name} has all", BACK_S)


class Judge:
    """Compares what was restored with what the client knows."""

    def __init__(self, history: History, room: Path) -> None:
        self._history = history
        self._room = room
        self.equal: Counter[str] = Counter()

    @property
    def _folder(self) -> Folder:
        return Folder.at(self._history.cluster.folder)

    def _expect(self, number: int | None, found: str, how: str, what: str) -> None:
        expected = "nothing" if number is None else self._history.commits[number].state
        if found == expected:
            self.equal[how] += 1
        else:
            self._history.wrong.append(
                f"{what} ({how}) is not the state after commit {number}: {found}"
            )

    def file(self, target: Target, number: int | None, how: str) -> None:
        path = self._room / "point.db"
        try:
            plan = asyncio.run(make_file(self._folder, MAIN, None, target, path))
            found = state_of_file(path) if plan.commit.lsn else "nothing"
        except SextetError as error:
            found = f"{type(error).__name__}: {error}"
        finally:
            path.unlink(missing_ok=True)
        self._expect(number, found, how, str(target))

    def cluster(self, source: str, name: str, target: Target, number: int | None, how: str) -> None:
        """A whole new cluster, by the command."""
        cluster = self._history.cluster
        moment = ["--latest"]
        if target.lsn is not None:
            moment = ["--to-lsn", str(target.lsn)]
        elif target.time_us is not None:
            moment = ["--to-time", (EPOCH + timedelta(microseconds=target.time_us)).isoformat()]
        cluster.sextet("restore", source, name, *moment, "--readers", 0, timeout_s=300)
        self.exported(name, number, how)

    def exported(self, name: str, number: int | None, how: str) -> None:
        path = self._room / f"{name}.db"
        self._history.cluster.sextet("export", "--cluster", name, path)
        self._expect(number, state_of_file(path), how, name)

    def once_more(self, source: str, name: str, number: int) -> None:
        """`source`, which was restored, writes on; its own archive has both states."""
        layout = load(self._folder.data)
        assert layout is not None
        before_us = now_us()
        until_archived(self._history.cluster, source, before_us)
        url = layout.cluster(source).writer_url
        with psycopg.connect(url, autocommit=True) as client:
            client.execute("CREATE TABLE later (id INTEGER PRIMARY KEY)")
            client.execute("INSERT INTO later VALUES (7)")
        until_archived(self._history.cluster, source, now_us())
        path = self._room / "again.db"
        target = Target(time_us=before_us)
        asyncio.run(make_file(self._folder, source, None, target, path))
        self._expect(number, state_of_file(path), "once more, as of the import", source)
        self._history.cluster.sextet("restore", source, name, "--latest", "--readers", 0)
        with psycopg.connect(self._url(name), autocommit=True) as client:
            rows = client.execute("SELECT id FROM later").fetchall()
            client.execute("DROP TABLE later")
        if rows != [(7,)]:
            self._history.wrong.append(f"{name} has {rows} of what {source} wrote")
        self.exported(name, number, "once more, of the end")

    def _url(self, name: str) -> str:
        layout = load(self._folder.data)
        assert layout is not None
        return layout.cluster(name).writer_url


def measure(cluster: LocalCluster, room: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    history = History(cluster, random.Random(arguments.seed))
    history.begin()
    history.run(arguments.transactions)
    cluster.fault.heal()
    until_archived(cluster, MAIN, history.commits[-1].ended_us)
    status = cluster.status()
    line = asyncio.run(timeline(Folder.at(cluster.folder), history))
    print(f"{len(history.commits)} commits, volume epoch {status['volume']['epoch']}", flush=True)
    drawn = points(history, line, arguments.points)
    judge = Judge(history, room)
    for target, number, how in drawn[:-2]:
        judge.file(target, number, how)
    for at, (target, number, how) in enumerate(drawn[-2:], start=1):
        judge.cluster(MAIN, f"again{at}", target, number, f"{how}, as a cluster")
    assert drawn[-1][1] is not None
    judge.once_more("again2", "twice", drawn[-1][1])
    cluster.sextet("backup", "verify", MAIN)
    return {
        "commits": len(history.commits),
        "transactions": dict(history.counts),
        "volume_epoch": status["volume"]["epoch"],
        "points": len(drawn),
        "equal": dict(judge.equal),
        "wrong": history.wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=30)
    parser.add_argument("--transactions", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    with TemporaryDirectory(prefix="sextet-bench-") as room, LocalCluster(replicas=2) as cluster:
        found = measure(cluster, Path(room), arguments)
    found["seconds"] = round(time.monotonic() - began)
    print(json.dumps(found, indent=2))
    save("real-restores", found)
    if found["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
