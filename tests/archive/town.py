"""A simulated cluster with its archiver, whose store can be watched, and a client that notes what it wrote.

Every write is one row with the next number, so a restored file says by itself of which moment it is.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster.endpoint.balance import Kind
from cluster.local.layout import AZS
from cluster.sim.objects import Bucket
from cluster.sim.restores import Still
from cluster.sim.sqlwire import SqlClient
from cluster.sim.transport import SimTransport
from cluster.sim.world import ARCHIVER, WALL_START_US, Shape, SimProcess, World
from engine.archive.archiver import ArchiveConfig, Archiver
from engine.archive.catalogue import Listing, Target, generations
from engine.archive.chunks import Chunk, commits_of
from engine.archive.restore import Archive
from engine.archive.verify import verify
from engine.types import LSN

SECOND = "archive-second"
CONFIG = ArchiveConfig(
    round_s=0.2,
    chunk_bytes_max=8 * 1024,
    idle_s=3600.0,
    base_bytes_min=1 << 40,
    backoff_limit_s=1.0,
)
"""Small chunks, and neither idle chunks nor bases, unless a test wants some."""

BASES = replace(CONFIG, base_bytes_min=1)
"""A base as soon as there is more log than the volume has pages."""


class WatchedBucket(Bucket):
    """`on_create` is called before and after each object comes into being; it may raise."""

    on_create: Callable[[str, str], None] = staticmethod(lambda _when, _key: None)

    def create(self, key: str, data: bytes) -> None:
        self.on_create("before", key)
        super().create(key, data)
        self.on_create("after", key)


@dataclass
class Town:
    world: World
    noted: list[tuple[int, int]] = field(default_factory=list)
    """(wall clock in microseconds, rows that were there)."""

    @property
    def bucket(self) -> WatchedBucket:
        assert isinstance(self.world.bucket, WatchedBucket)
        return self.world.bucket

    # -- clients

    async def set_up(self) -> None:
        await self.world.start()
        self.client = self.world.client_host("client")
        await self.until(lambda: self._connect() is not None)
        await self.run("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        self.note()
        await self.run("CREATE TABLE churn (text TEXT)")
        await self.run("INSERT INTO churn VALUES ('')")

    def _connect(self) -> SqlClient | None:
        self.connected = self.world.endpoint.connect(Kind.WRITER, self.client)
        return self.connected

    client: SimTransport = field(init=False)
    connected: SqlClient | None = None

    async def run(self, sql: str) -> None:
        assert self.connected is not None
        await self.connected.run(sql)

    async def write(self, rows: int = 1) -> None:
        """Each a commit, and another one of some log that makes the file no larger."""
        for _ in range(rows):
            await self.run("INSERT INTO t (text) VALUES ('some text')")
            self.rows += 1
            self.note()
            await self.run("UPDATE churn SET text = hex(randomblob(1500))")

    rows: int = 0

    def note(self) -> None:
        self.noted.append((WALL_START_US + int(self.world.loop.time() * 1e6), self.rows))

    # -- nodes

    def process(self, name: str = ARCHIVER) -> SimProcess:
        return self.world.processes[name]

    @property
    def archiver(self) -> Archiver | None:
        node = self.process().node
        assert node is None or isinstance(node, Archiver)
        return node

    @property
    def vdl(self) -> LSN:
        writer = self.world.writer()
        assert writer is not None
        return int(writer.node.writer.volume.vdl.lsn)

    def hold_down(self, name: str = ARCHIVER) -> None:
        self.process(name).held_down = True
        self.world.kill(self.process(name))

    def let_go(self, name: str = ARCHIVER) -> None:
        self.process(name).held_down = False
        self.world.boot(self.process(name))

    def segments(self) -> list[Any]:
        return [s for p in self.world.storage if p.node for _, s in p.node.state.segments()]

    def log_begins(self) -> list[LSN]:
        """From where on each node has group 0's log."""
        return [segment.hot_from for segment in self.segments() if segment.pg == 0]

    async def until(self, true: Callable[[], bool], *, seconds: float = 60.0) -> None:
        end = self.world.loop.time() + seconds
        while not true():
            assert self.world.loop.time() < end, "not in time"
            await asyncio.sleep(0.02)

    async def archived(self) -> None:
        """Until everything that was committed is in the archive."""
        await self.until(lambda: self.archiver is not None and self.archiver.upto == self.vdl)

    # -- the archive

    def names(self) -> list[str]:
        return generations("main", self.bucket.objects)

    def listing(self, name: str = "main") -> Listing:
        return Listing.of(name, self.bucket.objects)


async def rows_at(archive: Archive, target: Target) -> int:
    """How many rows a restore has: all up to some number, in a database that is whole."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "db"
        await archive.restore(await archive.plan(target), path)
        if not path.stat().st_size:
            return 0
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            count, last = db.execute("SELECT count(*), coalesce(max(id), 0) FROM t").fetchone()
    assert count == last
    return int(count)


@dataclass
class Looked:
    """One archive, seen whole."""

    archive: Archive
    chunks: list[Chunk]


async def look(town: Town, name: str = "main", *, every: int = 1) -> Looked:
    """Its history is one without a gap, and every moment that was noted within its window is restored."""
    archive = await Archive.open(Still(town.bucket), name)
    assert (await verify(archive))[0] == []
    window = await archive.window()
    for time_us, rows in town.noted[::every]:
        if window.earliest.time_us <= time_us <= window.known_us:
            assert await rows_at(archive, Target(time_us=time_us)) == rows
    chunks = [await archive.chunk(n) for n in archive.listing.chunks]
    for before, chunk in pairwise(chunks):
        for commit in commits_of(chunk):
            assert commit.time_us >= before.head.known_us, "what was said to be known was not"
    return Looked(archive, chunks)


def play(
    act: Callable[[Town], Awaitable[None]],
    *,
    config: ArchiveConfig = CONFIG,
    archivers: int = 1,
    seed: int = 1,
) -> Town:
    """Run `act` in a town with a table; what went wrong in any node fails the test."""
    shape = Shape(replicas=0, group_pages=8, archive=True, archiver=config)
    world = World(seed, shape)
    world.bucket = WatchedBucket(world.rng("bucket"))
    if archivers == 2:
        world._add(SECOND, "archiver", AZS[2])
    town = Town(world)

    async def whole() -> None:
        await town.set_up()
        await act(town)

    try:
        world.loop.run_until_complete(whole())
    finally:
        world.close()
    assert world.errors == [], world.errors
    return town
