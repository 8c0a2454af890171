"""kill -9 while there is archived, kept, cloned, restored, put back and deleted, with real processes.

    python -m benchmarks.kills [--moments 12] [--only clone,delete] [--victims command] [--steps none]

One local cluster, into which a client inserts numbered rows all the time and notes which were acknowledged.
Then every operation is begun again and again, and a victim killed meanwhile: a storage node, two of them,
the archiver, the control plane, the writer, or the command itself. First at `--moments` moments spread over
how long the operation takes when nobody is killed. Then at protocol steps (`engine.steps`), before and
after each that an operation's processes take: `STEPS`.

After each kill:

- the operation is complete or absent. A command that has succeeded is complete; what is complete has the
  contents that it should have, row by row; an unfinished cluster says that it is one;
- the same command again succeeds, or says that it is there already; then the contents are right;
- every object of the archive is whole and follows the one before it (`sextet backup verify`);
- every acknowledged row is there, once.

Exit status 1 if any of this does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import psycopg

from benchmarks.local import save
from cluster.cli.archives import find, opened
from cluster.cli.client import cluster_status
from cluster.cli.clusters import keepers
from cluster.cli.errors import NotRunning
from cluster.cli.restore import make_file
from cluster.cli.told import told_of
from cluster.local.archiving import load_archive_state
from cluster.local.cloning import clone_cluster
from cluster.local.clusters import delete_cluster
from cluster.local.folder import Folder
from cluster.local.layout import MAIN, ClusterSpec, ClusterState, ForkSpec, Layout, load
from cluster.local.state import running_state
from cluster.testing import LocalCluster
from engine.archive import snapshots
from engine.archive.catalogue import Target
from engine.archive.verify import verify
from engine.errors import SextetError
from engine.faults.effects import effects_path, read_effects
from engine.faults.file import ActiveFault, changing
from engine.steps import Step

OLD_ROWS = 1200
OLD_BYTES = 2400
"""Rows of before, most of a page each: more than one part of a base or snapshot."""

PAUSE_S = 0.1
COMMAND_S = 180.0
BACK_S = 90.0
"""After a kill everything works again within that."""

REACHED_S = 25.0
"""How long a step is waited for that comes after its command has ended, as those of archivers may."""

COMPLETE, ABSENT, FAILED, MISSED = "complete", "absent", "failed", "missed"


class Wrong(Exception):
    """Something does not hold."""


def body(number: int) -> str:
    return f"row {number} {number * 7919 % 10007}"


def prefix(rows: Sequence[tuple[Any, ...]]) -> int:
    """These are rows 1 to n in order: n. Raises Wrong."""
    for at, row in enumerate(rows, start=1):
        if row != (at, body(at)):
            raise Wrong(f"row {at} is {row}")
    return len(rows)


class Rows:
    """A client that inserts one row after the other, and knows which were acknowledged."""

    def __init__(self, url: str) -> None:
        self.acked = 0
        self.sent = 0
        self.wrong: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._connection: psycopg.Connection[Any] | None = None
        self._doubt = True

    def __enter__(self) -> Rows:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            with self._turn:
                self._insert()

    def _insert(self) -> None:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=10)
            if self._doubt:
                self._look(self._connection)
            self.sent = self.acked + 1
            self._doubt = True
            self._connection.execute(
                "INSERT INTO beat VALUES (%s, %s)", (self.sent, body(self.sent))
            )
            self.acked, self._doubt = self.sent, False
        except psycopg.Error:
            if self._connection is not None:
                self._connection.close()

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        """What became of the row whose outcome nobody has told."""
        found = connection.execute("SELECT coalesce(max(id), 0) FROM beat").fetchone()
        assert found is not None
        if not self.acked <= found[0] <= self.sent:
            self.wrong.append(f"{self.acked} to {self.sent} rows were there, and now {found[0]}")
        self.acked, self._doubt = found[0], False

    def settled(self) -> tuple[datetime, int]:
        """A moment between two commits, and how many rows there are then."""
        deadline = time.monotonic() + BACK_S
        while time.monotonic() < deadline:
            with self._turn:
                if not self._doubt:
                    time.sleep(0.002)
                    found = datetime.now(UTC), self.acked
                    time.sleep(0.002)
                    return found
                self._insert()
        raise Wrong(f"no row was acknowledged for {BACK_S:.0f} s")


@dataclass
class Bench:
    """The cluster under test and what is known of it."""

    cluster: LocalCluster
    rows: Rows
    room: Path
    rng: random.Random
    number: int = 0
    """Of the experiment, and so of whatever it makes."""

    expected: tuple[int, int] = (0, 0)
    """As few and as many rows as the state may have that this operation is to keep."""

    moment: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    @property
    def folder(self) -> Folder:
        return Folder.at(self.cluster.folder)

    @property
    def layout(self) -> Layout:
        found = load(self.folder.data)
        assert found is not None
        return found

    def spec(self, name: str) -> ClusterSpec | None:
        return next((c for c in self.layout.clusters if c.name == name), None)

    def kill(self, *names: str) -> None:
        for name in names:
            state = running_state(self.folder)
            child = state.child(name) if state is not None else None
            if child is not None and child.process is not None:
                child.process.send(signal.SIGKILL)

    def check_rows(self, rows: Sequence[tuple[Any, ...]], old: tuple[Any, ...], what: str) -> None:
        """Raises Wrong unless these are the contents of what the operation was to keep."""
        if old != (OLD_ROWS, OLD_ROWS * OLD_BYTES):
            raise Wrong(f"{what} has {old} of the old rows")
        found = prefix(rows)
        low, high = self.expected
        if not low <= found <= high:
            raise Wrong(f"{what} has {found} rows, not {low} to {high}")

    def check_file(self, path: Path, what: str) -> None:
        with closing(sqlite3.connect(path)) as database:
            if database.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                raise Wrong(f"{what} fails its integrity check")
            self.check_rows(
                database.execute(BEATS).fetchall(), database.execute(OLDS).fetchone(), what
            )

    def check_cluster(self, name: str) -> None:
        """By SQL, once it answers."""
        spec = self.spec(name)
        if spec is None:
            raise Wrong(f"there is no {name}")
        deadline = time.monotonic() + BACK_S
        while True:
            try:
                with psycopg.connect(
                    spec.writer_url, autocommit=True, connect_timeout=10
                ) as client:
                    client.execute("SET statement_timeout = '30s'")
                    beats = client.execute(BEATS).fetchall()
                    old = client.execute(OLDS).fetchone()
                break
            except psycopg.Error as error:
                if time.monotonic() > deadline:
                    raise Wrong(f"{name} does not answer: {error}") from error
                time.sleep(0.2)
        assert old is not None
        self.check_rows(beats, old, name)


BEATS = "SELECT id, body FROM beat ORDER BY id"
OLDS = "SELECT count(*), sum(length(body)) FROM old"


def begin_command(bench: Bench, arguments: Sequence[object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cluster.cli.app", *map(str, arguments)],
        env={**os.environ, "SEXTET_DATA": str(bench.folder.data), "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(command: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        text, _ = command.communicate(timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        command.kill()
        command.communicate()
        return -1, f"it did not end within {COMMAND_S:.0f} s"
    return command.returncode, " ".join(text.split())


# -- operations


class Operation(ABC):
    """Something that a command does; `bench.number` tells one experiment's from another's."""

    name: str
    there = "already"
    """What the same command says if it is complete."""

    def prepare(self, bench: Bench) -> None:
        """Raises Wrong, SextetError."""
        moment, count = bench.rows.settled()
        bench.moment, bench.expected = moment, (count, count + 10_000)

    @abstractmethod
    def command(self, bench: Bench) -> list[object]:
        """The arguments of `sextet`."""

    @abstractmethod
    def complete(self, bench: Bench) -> bool:
        """Raises Wrong if it is neither that nor absent."""

    @abstractmethod
    def check(self, bench: Bench) -> None:
        """What is complete has the right contents. Raises Wrong, SextetError."""

    def undo(self, bench: Bench) -> None:
        """So that the next experiment begins as this one did."""
        return  # an archive is to grow

    def writer(self, bench: Bench) -> str:
        """Of the cluster that it is about, in the next experiment."""
        return bench.cluster.writer


def listed(bench: Bench, store: str | None = None) -> set[str]:
    """Snapshots of the store. Raises Corrupt, FormatError if one is listed that is no good."""

    async def look() -> set[str]:
        async with opened(bench.folder, store) as objects:
            names, _ = snapshots.names_in(await objects.keys(snapshots.PREFIX))
            return {(await snapshots.load(objects, name)).name for name in names}

    return asyncio.run(look())


def check_snapshot(bench: Bench, name: str, store: str | None = None) -> None:
    """Every part is whole, and the database is what it should be. Raises Wrong, SextetError."""
    path = bench.room / f"{name}.db"

    async def export() -> list[str]:
        async with opened(bench.folder, store) as objects:
            snapshot = await snapshots.load(objects, name)
            await snapshots.write_file(objects, snapshot, path)
            return await snapshots.verify(objects, snapshot)

    try:
        if wrong := asyncio.run(export()):
            raise Wrong("; ".join(wrong))
        bench.check_file(path, f"snapshot {name}")
    finally:
        path.unlink(missing_ok=True)


def delete_snapshot(bench: Bench, name: str, store: str | None = None) -> None:
    async def delete() -> None:
        async with opened(bench.folder, store) as objects:
            await snapshots.delete(objects, name)

    asyncio.run(delete())


def check_archive(bench: Bench, cluster: str = MAIN) -> None:
    """As `sextet backup verify`. Raises Wrong naming what is no good, SextetError."""

    async def check() -> list[str]:
        async with opened(bench.folder, None) as objects:
            told = await told_of(bench.folder, (await find(bench.folder, objects, cluster)).name)
            wrong, _ = await verify(await find(bench.folder, objects, cluster), told=told)
            return wrong

    if wrong := asyncio.run(check()):
        raise Wrong("; ".join(wrong))


class Snapshot(Operation):
    name = "snapshot"

    def command(self, bench: Bench) -> list[object]:
        return ["snapshot", "create", MAIN, f"s{bench.number}"]

    def complete(self, bench: Bench) -> bool:
        return f"s{bench.number}" in listed(bench)

    def check(self, bench: Bench) -> None:
        _, most = bench.rows.settled()
        bench.expected = bench.expected[0], min(most, bench.expected[1])
        check_snapshot(bench, f"s{bench.number}")

    def undo(self, bench: Bench) -> None:
        delete_snapshot(bench, f"s{bench.number}")


class Copy(Operation):
    """Of one snapshot, to another store."""

    name = "copy"
    rows_kept = 0

    def prepare(self, bench: Bench) -> None:
        if not self.rows_kept:
            bench.cluster.sextet("snapshot", "create", MAIN, "kept")
            path = bench.room / "kept.db"
            bench.cluster.sextet("snapshot", "export", "kept", path)
            with closing(sqlite3.connect(path)) as database:
                self.rows_kept = prefix(database.execute(BEATS).fetchall())
            path.unlink()
        bench.expected = self.rows_kept, self.rows_kept

    def command(self, bench: Bench) -> list[object]:
        to = self._store(bench)
        return ["snapshot", "copy", "kept", "--to-store", to, "--as", f"c{bench.number}"]

    def complete(self, bench: Bench) -> bool:
        store = self._store(bench)
        return Path(store).exists() and f"c{bench.number}" in listed(bench, store)

    def check(self, bench: Bench) -> None:
        check_snapshot(bench, f"c{bench.number}", self._store(bench))

    def undo(self, bench: Bench) -> None:
        delete_snapshot(bench, f"c{bench.number}", self._store(bench))

    def _store(self, bench: Bench) -> str:
        return str(bench.room / "elsewhere")


class NewCluster(Operation):
    """What makes a cluster of name `new`."""

    def new(self, bench: Bench) -> str:
        return f"{self.name}{bench.number}"

    def complete(self, bench: Bench) -> bool:
        spec = bench.spec(self.new(bench))
        return spec is not None and spec.state is ClusterState.RUNNING

    def check(self, bench: Bench) -> None:
        bench.check_cluster(self.new(bench))

    def undo(self, bench: Bench) -> None:
        delete_cluster(bench.folder, self.new(bench))


class Clone(NewCluster):
    name = "clone"

    def command(self, bench: Bench) -> list[object]:
        return ["clone", MAIN, self.new(bench), "--readers", 0]

    def check(self, bench: Bench) -> None:
        _, most = bench.rows.settled()
        bench.expected = bench.expected[0], min(most, bench.expected[1])
        super().check(bench)


class Restore(NewCluster):
    """To a moment, and so to exactly one number of rows."""

    name = "restore"

    def prepare(self, bench: Bench) -> None:
        super().prepare(bench)
        bench.expected = bench.expected[0], bench.expected[0]
        until_archived(bench, bench.moment)

    def command(self, bench: Bench) -> list[object]:
        at = bench.moment.isoformat()
        return ["restore", MAIN, self.new(bench), "--to-time", at, "--readers", 0]


def no_copy(why: str) -> NoReturn:
    raise Wrong(f"a clone would be a full copy: {why}")


class Delete(Operation):
    """Of a clone."""

    name = "delete"
    there = "there is no cluster"

    def __init__(self) -> None:
        self._volume = 0

    def prepare(self, bench: Bench) -> None:
        super().prepare(bench)
        name = f"gone{bench.number}"
        clone_cluster(bench.folder, ForkSpec(MAIN), name, full_copy=no_copy, readers=0)
        status = asyncio.run(cluster_status(bench.folder, bench.layout, name))
        self._volume = status.cluster.volume

    def command(self, bench: Bench) -> list[object]:
        return ["cluster", "delete", f"gone{bench.number}", "--yes"]

    def complete(self, bench: Bench) -> bool:
        spec = bench.spec(f"gone{bench.number}")
        if spec is not None and spec.state is ClusterState.RUNNING:
            bench.check_cluster(spec.name)  # it is absent, and then all of it is there
        return spec is None

    def check(self, bench: Bench) -> None:
        """No storage node keeps anything of it."""
        deadline = time.monotonic() + BACK_S
        while True:
            try:
                status = asyncio.run(cluster_status(bench.folder, bench.layout, MAIN))
                keeping, silent = keepers(status, self._volume)
                if not keeping and not silent:
                    return
                said = f"{keeping} keep the deleted volume, {silent} do not answer"
            except NotRunning as error:  # the control plane was killed just now
                said = str(error)
            if time.monotonic() > deadline:
                raise Wrong(said)
            time.sleep(0.2)


class Backtrack(Operation):
    """Of a clone whose rows were deleted since."""

    name = "backtrack"
    there = ""  # it says that nothing differs, and has succeeded

    def __init__(self) -> None:
        self._lsn = 0

    def _cluster(self, bench: Bench) -> str:
        return f"{self.name}{bench.number}"

    def _url(self, bench: Bench) -> str:
        spec = bench.spec(self._cluster(bench))
        assert spec is not None
        return spec.writer_url

    def prepare(self, bench: Bench) -> None:
        super().prepare(bench)
        clone_cluster(
            bench.folder,
            ForkSpec(MAIN),
            self._cluster(bench),
            full_copy=no_copy,
            readers=0,
            backtrack_window_s=3600,
        )
        with psycopg.connect(self._url(bench), autocommit=True) as client:
            client.execute("CREATE TABLE mark (id INTEGER PRIMARY KEY)")  # a commit of its own
            found = client.execute("SHOW sextet.last_commit").fetchone()
            count = client.execute("SELECT count(*) FROM beat").fetchone()
            assert found is not None
            assert count is not None
            self._lsn, bench.expected = int(found[0]), (count[0], count[0])
            client.execute("DELETE FROM beat")
            client.execute("UPDATE old SET body = 'x'")

    def command(self, bench: Bench) -> list[object]:
        return ["backtrack", self._cluster(bench), "--to-lsn", self._lsn, "--yes"]

    def complete(self, bench: Bench) -> bool:
        """Both tables are as they were, or neither is."""
        deadline = time.monotonic() + BACK_S
        while True:
            try:
                with psycopg.connect(
                    self._url(bench), autocommit=True, connect_timeout=10
                ) as client:
                    rows = client.execute("SELECT count(*) FROM beat").fetchone()
                    same = client.execute("SELECT count(*) FROM old WHERE body = 'x'").fetchone()
                break
            except psycopg.Error as error:
                if time.monotonic() > deadline:
                    raise Wrong(f"{self._cluster(bench)} does not answer: {error}") from error
                time.sleep(0.2)
        assert rows is not None
        assert same is not None
        if (rows[0] == 0) is not (same[0] == OLD_ROWS):
            raise Wrong(f"half of it: {rows[0]} rows, and {same[0]} of {OLD_ROWS} as of now")
        return bool(rows[0])

    def check(self, bench: Bench) -> None:
        bench.check_cluster(self._cluster(bench))

    def undo(self, bench: Bench) -> None:
        delete_cluster(bench.folder, self._cluster(bench))

    def writer(self, bench: Bench) -> str:
        return f"{self.name}{bench.number + 1}-1"


class Archive(Operation):
    """No command: the archiver at work for some seconds, which `sleep` stands for."""

    name = "archive"
    there = ""

    def command(self, bench: Bench) -> list[object]:
        return ["backup", "verify", MAIN]

    def complete(self, bench: Bench) -> bool:
        moment, count = bench.rows.settled()
        bench.expected = count, count
        until_archived(bench, moment)
        path = bench.room / "archive.db"
        restore_file(bench, moment, path)
        bench.check_file(path, "the archive")
        path.unlink()
        return True

    def check(self, bench: Bench) -> None:
        pass


def until_archived(bench: Bench, moment: datetime, of: str = MAIN) -> None:
    """Raises Wrong if the archive has not what was committed until then within BACK_S."""
    deadline = time.monotonic() + BACK_S
    while True:
        said = load_archive_state(bench.folder, of)
        if said is not None and said.known_us >= moment.timestamp() * 1e6:
            return
        if time.monotonic() > deadline:
            raise Wrong(f"what was committed until {moment} is not archived: {said}")
        time.sleep(0.05)


def until_verified(bench: Bench, cluster: str) -> None:
    """An archive that begins in the middle of a log is not whole before it has a base. Raises Wrong."""
    deadline = time.monotonic() + BACK_S
    while True:
        try:
            check_archive(bench, cluster)
            return
        except (Wrong, SextetError) as error:
            if time.monotonic() > deadline:
                raise Wrong(str(error)) from error
        time.sleep(0.2)


def restore_file(bench: Bench, moment: datetime, path: Path) -> None:
    """As `sextet restore` makes it before it makes a cluster."""
    target = Target(time_us=int(moment.timestamp() * 1e6))
    asyncio.run(make_file(bench.folder, MAIN, None, target, path))


OPERATIONS: tuple[Operation, ...] = (
    Archive(),
    Snapshot(),
    Copy(),
    Clone(),
    Restore(),
    Backtrack(),
    Delete(),
)


# -- victims

STORAGE = [f"storage-{n}" for n in range(1, 7)]
VICTIMS: dict[str, Callable[[Bench], Sequence[str]]] = {
    "storage node": lambda bench: bench.rng.sample(STORAGE, 1),
    "two nodes": lambda bench: bench.rng.sample(STORAGE, 2),
    "archiver": lambda _: [f"archive-{MAIN}"],
    "control": lambda _: ["control"],
    "writer": lambda _: [],  # each operation has its own
    "command": lambda _: [],
}

STEPS: tuple[tuple[str, str, Step], ...] = (
    ("archive", "archive-main", Step.ARCHIVE),
    ("archive", "archive-main", Step.TELL),
    ("clone", "storage", Step.FORK),
    ("clone", "control", Step.CONFIRM),
    ("clone", "control", Step.ADVANCE_EPOCH),
    ("clone", "new writer", Step.FENCED),
    ("clone", "new writer", Step.TRUNCATED),
    ("clone", "new writer", Step.REHARDENED),
    ("clone", "new writer", Step.PROMOTE),
    ("clone", "new archiver", Step.NEW_ARCHIVE),
    ("clone", "new archiver", Step.BASE_PART),
    ("clone", "new archiver", Step.BASE),
    ("restore", "control", Step.ADD_GROUP),
    ("restore", "control", Step.CONFIRM),
    ("restore", "storage", Step.CREATE),
    ("restore", "storage", Step.RECEIVE),
    ("restore", "storage", Step.PERSIST),
    ("restore", "new writer", Step.SEND),
    ("restore", "new writer", Step.DURABLE),
    ("backtrack", "new writer", Step.BACKTRACK),
    ("backtrack", "new writer", Step.SEND),
    ("backtrack", "new writer", Step.DURABLE),
    ("backtrack", "storage", Step.RECEIVE),
    ("backtrack", "storage", Step.PERSIST),
    ("delete", "storage", Step.DROP),
)
"""(operation, process, step), each before and after. `RETIRE` and `GROW` are not reached: nothing is a day
old here, and everything fits into one protection group."""


def arm(bench: Bench, name: str, step: Step, when: str) -> int:
    """Have the process kill itself at the step, also one that is not there yet; the fault's id."""
    path = bench.folder.faults
    with changing(path) as change:
        fault = ActiveFault(
            id=change.file.next_id,
            kind="kill",
            target=name,
            names=(name,),
            since=time.time(),
            step=step.value,
            when=when,
        )
        change.file = change.file.adding(fault)
    time.sleep(0.15)  # processes look at the file every 50 ms
    return fault.id


def disarm(bench: Bench, fault: int) -> None:
    with changing(bench.folder.faults) as change:
        left = tuple(f for f in change.file.faults if f.id != fault)
        change.file = replace(change.file, faults=left)


# -- one experiment


@dataclass
class Table:
    """Outcomes by row and column."""

    cells: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def note(self, row: str, column: str, outcome: str) -> None:
        self.cells.setdefault((row, column), Counter())[outcome] += 1

    def lines(self) -> Iterator[str]:
        heads = ("kills", ABSENT, COMPLETE, FAILED, MISSED)
        yield f"{'operation':<10} {'victim':<28}" + "".join(f"{head:>10}" for head in heads)
        for (row, column), found in self.cells.items():
            kills = found[COMPLETE] + found[ABSENT] + found[FAILED]
            numbers = (kills, found[ABSENT], found[COMPLETE], found[FAILED], found[MISSED])
            yield f"{row:<10} {column:<28}" + "".join(f"{number:>10}" for number in numbers)


def again(bench: Bench, operation: Operation, complete: bool) -> None:
    """Raises Wrong unless the same command succeeds, or says that it is there."""
    deadline = time.monotonic() + BACK_S
    while True:
        status, said = ended(begin_command(bench, operation.command(bench)))
        if status == 0 or (complete and operation.there and operation.there in said):
            return
        if time.monotonic() > deadline:
            raise Wrong(f"the same command again: {said}")
        if not complete:
            complete = operation.complete(bench)
        time.sleep(0.5)


def judge(bench: Bench, operation: Operation, status: int, said: str) -> str:
    """COMPLETE or ABSENT. Raises Wrong, and whatever else is no good."""
    complete = operation.complete(bench)
    if status == 0 and not complete:
        raise Wrong(f"the command has succeeded, and it is not there: {said}")
    if complete:
        operation.check(bench)
    again(bench, operation, complete)
    if not operation.complete(bench):
        raise Wrong("the same command has succeeded, and it is not there")
    operation.check(bench)
    check_archive(bench)
    bench.rows.settled()
    if bench.rows.wrong:
        raise Wrong("; ".join(bench.rows.wrong))
    operation.undo(bench)
    return COMPLETE if complete else ABSENT


def experiment(
    bench: Bench,
    operation: Operation,
    table: Table,
    column: str,
    strike: Callable[[subprocess.Popen[str]], bool],
    what: str,
) -> None:
    """`strike` kills, or sees to it, while the command runs; False if nobody was killed."""
    bench.number += 1
    try:
        operation.prepare(bench)
        command = begin_command(bench, operation.command(bench))
        try:
            struck = strike(command)
        finally:
            status, said = ended(command)
        outcome = judge(bench, operation, status, said)
    except (Wrong, SextetError, psycopg.Error) as error:
        struck, outcome = True, FAILED
        table.wrong.append(f"{bench.number}: {operation.name}, {column}, {what}: {error}")
        print(table.wrong[-1], flush=True)
    outcome = outcome if struck else MISSED
    table.note(operation.name, column, outcome)
    print(f"{bench.number:>4} {operation.name:<9} {column:<30} {what:<20} {outcome}", flush=True)


def at_moment(
    bench: Bench, victims: Sequence[str], after_s: float
) -> Callable[[subprocess.Popen[str]], bool]:
    """No victims: the command itself."""

    def strike(command: subprocess.Popen[str]) -> bool:
        time.sleep(after_s)
        if victims:
            bench.kill(*victims)
            return True
        alive = command.poll() is None
        command.kill()
        return alive

    return strike


def duration(bench: Bench, operation: Operation) -> float:
    """How long it takes if nobody is killed, seconds. Raises Wrong if it fails even so."""
    bench.number += 1
    operation.prepare(bench)
    began = time.monotonic()
    status, said = ended(begin_command(bench, operation.command(bench)))
    took = time.monotonic() - began
    if status or not operation.complete(bench):
        raise Wrong(f"{operation.name} fails with nobody killed: {said}")
    operation.check(bench)
    operation.undo(bench)
    return 3.0 if isinstance(operation, Archive) else took


def by_moments(
    bench: Bench, operation: Operation, victims: Sequence[str], moments: int, table: Table
) -> None:
    took = duration(bench, operation)
    print(f"{operation.name} takes {took:.1f} s", flush=True)
    for victim in victims:
        if victim == "command" and isinstance(operation, Archive):
            continue
        for turn in range(moments):
            after_s = took * (turn + 0.5) / moments
            names = [operation.writer(bench)] if victim == "writer" else VICTIMS[victim](bench)
            strike = at_moment(bench, names, after_s)
            experiment(bench, operation, table, victim, strike, f"after {after_s:.2f} s")


def by_step(
    bench: Bench, operation: Operation, process: str, step: Step, when: str, table: Table
) -> None:
    new = f"{operation.name}{bench.number + 1}"
    names = {
        "storage": bench.rng.choice(STORAGE),
        "new writer": f"{new}-1",
        "new archiver": f"archive-{new}",
    }
    name = names.get(process, process)
    fault: int | None = None

    def fired() -> bool:
        assert fault is not None
        said = read_effects(effects_path(bench.folder.faults, name))
        return fault in said.by_fault

    def strike(command: subprocess.Popen[str]) -> bool:
        nonlocal fault
        fault = arm(bench, name, step, when)
        deadline = time.monotonic() + COMMAND_S
        while command.poll() is None and not fired() and time.monotonic() < deadline:
            time.sleep(0.05)
        if process in ("new archiver", "storage", "archive-main"):
            deadline = time.monotonic() + REACHED_S
            while command.poll() == 0 and not fired() and time.monotonic() < deadline:
                time.sleep(0.05)
        hit = fired()
        disarm(bench, fault)
        if process == "new archiver":
            until_archived(bench, bench.moment, new)
            until_verified(bench, new)
        return hit

    experiment(bench, operation, table, f"{process} at {step.value}", strike, when)


def fill(cluster: LocalCluster) -> None:
    with psycopg.connect(cluster.writer_url, autocommit=True) as client:
        client.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY, body TEXT)")
        client.execute("CREATE TABLE old (id INTEGER PRIMARY KEY, body TEXT)")
        for first in range(0, OLD_ROWS, 200):
            client.execute(
                f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n"
                f" WHERE i < {first + 199}) INSERT INTO old"
                f" SELECT i, substr(hex(randomblob({OLD_BYTES})), 1, {OLD_BYTES}) FROM n"
            )


@contextmanager
def prepared(seed: int) -> Iterator[Bench]:
    room = Path(tempfile.mkdtemp(prefix="sextet-kills-"))
    try:
        with LocalCluster(replicas=1) as cluster:
            fill(cluster)
            with Rows(cluster.writer_url) as rows:
                yield Bench(cluster, rows, room, random.Random(seed))
    finally:
        shutil.rmtree(room, ignore_errors=True)


def chosen(text: str | None, known: Sequence[str], what: str) -> list[str]:
    if text is None:
        return list(known)
    named = [name.strip() for name in text.split(",")]
    if strange := [name for name in named if name not in known]:
        sys.exit(f"there is no {what} {', '.join(strange)}; there is: {', '.join(known)}")
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=12, help="for each operation and victim")
    parser.add_argument("--only", help="operations, comma-separated")
    parser.add_argument("--victims", help="victims, comma-separated")
    parser.add_argument("--steps", help="protocol steps, comma-separated, or none")
    parser.add_argument("--seed", type=int, default=1, help="which storage nodes are killed")
    arguments = parser.parse_args()
    names = chosen(arguments.only, [one.name for one in OPERATIONS], "operation")
    victims = chosen(arguments.victims, list(VICTIMS), "victim")
    known = [step.value for _, _, step in STEPS]
    steps = [] if arguments.steps == "none" else chosen(arguments.steps, known, "step")
    table = Table()
    began = time.monotonic()
    with prepared(arguments.seed) as bench:
        operations = {one.name: one for one in OPERATIONS}
        for name, process, step in STEPS:
            if name in names and step.value in steps:
                for when in ("before", "after"):
                    by_step(bench, operations[name], process, step, when, table)
        for name in names if arguments.moments else ():
            by_moments(bench, operations[name], victims, arguments.moments, table)
        moment, count = bench.rows.settled()
        bench.expected = count, count
        bench.check_cluster(MAIN)
        until_archived(bench, moment)
        check_archive(bench)
        print(f"{count} acknowledged rows are there")
    print("\n".join(table.lines()))
    print(f"{time.monotonic() - began:.0f} s; {len(table.wrong)} failed")
    cells = [[*key, dict(found)] for key, found in table.cells.items()]
    save("kills", {"moments": arguments.moments, "cells": cells, "wrong": table.wrong})
    if table.wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
