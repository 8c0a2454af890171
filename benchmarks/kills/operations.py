"""What is begun and killed: how each operation is prepared, begun, judged and taken back."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from abc import ABC, abstractmethod
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import psycopg

from benchmarks.kills.harness import BACK_S, BEATS, OLD_ROWS, Bench, Wrong, prefix
from cluster.cli.archives import find, opened
from cluster.cli.client import cluster_status
from cluster.cli.clusters import keepers
from cluster.cli.errors import NotRunning
from cluster.cli.restore import make_file
from cluster.cli.told import told_of
from cluster.local.archiving import load_archive_state
from cluster.local.cloning import clone_cluster
from cluster.local.clusters import delete_cluster
from cluster.local.layout import MAIN, ClusterState, ForkSpec
from engine.archive import snapshots
from engine.archive.catalogue import Target
from engine.archive.verify import verify
from engine.errors import SextetError


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
