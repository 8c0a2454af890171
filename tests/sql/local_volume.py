"""A volume in memory for tests: keeps every version of every page, and durability when told to.

It is the sink of a writer and the source of any number of pools. By default a commit is durable in
the next turn of the event loop; with `hold()` it is when the test says so.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from engine.errors import SextetError, StaleEpoch, VolumeFull
from engine.log.apply import apply_record
from engine.log.diff import diff_page
from engine.log.record import PageChange, Record
from engine.sql.engine import SqlEngine, SqlSettings
from engine.sql.pool import BufferPool
from engine.types import LSN, ZERO_PAGE, CommitMark, PageNo
from engine.volume.geometry import pg_of

EMPTY = CommitMark(0, 0, 0)


class FakeClock:
    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_us(self) -> int:
        return 1_700_000_000_000_000


class LocalVolume:
    def __init__(self, max_pages: int = 1 << 20, *, seed: int = 0) -> None:
        self.seed = seed  # of the engines made here
        self.max_pages = max_pages
        self.log: list[Record] = []
        self.commits: list[CommitMark] = [EMPTY]
        self.vdl = EMPTY
        self.versions: dict[PageNo, list[tuple[LSN, bytes]]] = {}
        self.on_durable: list[Callable[[CommitMark], None]] = []
        self.reads: list[tuple[tuple[PageNo, ...], LSN]] = []
        self.reading = asyncio.Event()  # set when a read has arrived
        self.free: int | None = None  # what the last commit said of the free list
        self.gate = asyncio.Event()  # reads wait for it
        self.gate.set()
        self.room = asyncio.Event()
        self.room.set()
        self.failure: SextetError | None = None  # of the next reads
        self.prepared = 0  # large commits announced
        self.held = False
        self.dead = False
        self._waiters: list[tuple[LSN, asyncio.Future[None]]] = []

    # -- source

    async def read_pages(self, pages: Sequence[PageNo], read_lsn: LSN) -> list[tuple[LSN, bytes]]:
        assert read_lsn <= self.vdl.lsn, "nothing above VDL may be read from storage"
        assert len({pg_of(page) for page in pages}) == 1
        self.reads.append((tuple(pages), read_lsn))
        self.reading.set()
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return [self.version(page, read_lsn) for page in pages]

    def version(self, page: PageNo, at: LSN) -> tuple[LSN, bytes]:
        for lsn, image in reversed(self.versions.get(page, [])):
            if lsn <= at:
                return lsn, image
        return 0, ZERO_PAGE

    def database(self, mark: CommitMark) -> bytes:
        """The whole database file at a commit."""
        return b"".join(self.version(page, mark.lsn)[1] for page in range(mark.pages))

    # -- sink

    async def ready(self) -> None:
        await self.room.wait()

    async def reserve(self, pages: int) -> None:
        await asyncio.sleep(0)
        if pages > self.max_pages:
            raise VolumeFull(f"{pages} pages wanted, {self.max_pages} is the maximum")

    async def prepare(self) -> None:
        self.prepared += 1
        await asyncio.sleep(0)

    def commit(
        self, changes: Sequence[PageChange], pages: int, free: int | None = None
    ) -> tuple[CommitMark, Mapping[PageNo, LSN]]:
        assert changes
        assert pages <= self.max_pages
        self.free = free
        last = self.commits[-1]
        mark = CommitMark(last.lsn + len(changes), 0, pages)
        lsns: dict[PageNo, LSN] = {}
        for lsn, change in enumerate(changes, last.lsn + 1):
            assert change.page not in lsns
            assert change.page < pages
            newest = self.version(change.page, last.lsn)[1]
            if change.before is not None:
                assert change.before == newest, "the diff is against the tip"
                assert change.before != change.after
            full, moves, ranges = diff_page(change.before, change.after)
            cpl = mark if lsn == mark.lsn else None
            record = Record(lsn, lsn - 1, 0, 1, change.page, full, ranges, cpl, moves)
            assert apply_record(newest, record) == change.after
            self.log.append(record)
            self.versions.setdefault(change.page, []).append((lsn, change.after))
            lsns[change.page] = lsn
        self.commits.append(mark)
        if not self.held:
            asyncio.get_running_loop().call_soon(self.make_durable, mark)
        return mark, lsns

    async def wait_durable(self, lsn: LSN) -> None:
        if self.dead:
            raise StaleEpoch("fenced off by a newer writer")
        if self.vdl.lsn < lsn:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((lsn, future))
            await future

    # -- what the test decides

    def hold(self) -> None:
        """From now on nothing becomes durable by itself."""
        self.held = True

    def make_durable(self, mark: CommitMark | None = None) -> None:
        """VDL moves to `mark`, the newest commit by default."""
        mark = mark or self.commits[-1]
        if mark.lsn <= self.vdl.lsn:
            return
        self.vdl = mark
        for listener in self.on_durable:
            listener(mark)
        for lsn, future in self._waiters:
            if lsn <= mark.lsn and not future.done():
                future.set_result(None)
        self._waiters = [w for w in self._waiters if not w[1].done()]

    def fence(self) -> None:
        """Another writer has taken over: whoever waits is told so."""
        self.dead = True
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(StaleEpoch("fenced off by a newer writer"))
        self._waiters.clear()

    @property
    def waiting(self) -> int:
        return sum(not future.done() for _, future in self._waiters)

    def crash(self) -> None:
        """The writer died: what is above VDL never happened."""
        keep = self.vdl
        self.log = [r for r in self.log if r.lsn <= keep.lsn]
        self.commits = [m for m in self.commits if m.lsn <= keep.lsn]
        self.versions = {
            page: [v for v in versions if v[0] <= keep.lsn]
            for page, versions in self.versions.items()
        }
        self.on_durable.clear()

    # -- what reads and writes it

    def writer(self, *, capacity: int = 4096, settings: SqlSettings | None = None) -> SqlEngine:
        pool = BufferPool(self, capacity_pages=capacity, start=self.vdl)
        self.on_durable.append(pool.set_visible)
        return SqlEngine(pool, self, FakeClock(), random.Random(self.seed), settings=settings)

    def replica(self, *, capacity: int = 4096) -> tuple[SqlEngine, Feed]:
        pool = BufferPool(self, capacity_pages=capacity, start=self.vdl)
        return SqlEngine(pool, None, FakeClock(), random.Random(self.seed)), Feed(self, pool)


class Feed:
    """Gives a replica's pool what it has not had yet, up to VDL, when told to."""

    def __init__(self, volume: LocalVolume, pool: BufferPool) -> None:
        self._volume = volume
        self._pool = pool

    def catch_up(self) -> None:
        volume, done = self._volume, self._pool.visible.lsn
        if volume.vdl.lsn > done:
            records = [r for r in volume.log if done < r.lsn <= volume.vdl.lsn]
            self._pool.apply(records, volume.vdl)
