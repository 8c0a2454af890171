"""The buffer pool against a volume that simply keeps every version of every page.

One volume, a writer's pool and a replica's, both tiny. Commits, VDL, pins, reads that storage
answers late, cancellations and rejoining replicas come in any order. Whatever a read returns must be
the page at exactly its read point, and whatever is cached must be what the volume has.

Twice: Hypothesis draws short histories and shrinks them; long ones come from seeds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from engine.log.record import PageChange
from engine.sql.pool import BufferPool, Snapshot
from engine.sql.versions import UNKNOWN
from engine.types import PAGE_SIZE, PageNo
from tests.sql.client import settle
from tests.sql.local_volume import Feed, LocalVolume

PAGES = 5
CAPACITY = 3

Draw = Callable[[int], int]
"""A number in range(n)."""


class World:
    """One step at a time; every choice is drawn."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.volume = LocalVolume()
        self.volume.hold()
        self.counter = 0
        self.volume.commit([PageChange(p, None, self.image(p)) for p in range(PAGES)], PAGES)
        self.volume.make_durable()
        self.pools = [
            BufferPool(self.volume, capacity_pages=CAPACITY, start=self.volume.vdl)
            for _ in ("writer", "replica")
        ]
        self.writer, self.replica = self.pools
        self.volume.on_durable.append(self.writer.set_visible)
        self.feed = Feed(self.volume, self.replica)
        self.pins: list[tuple[BufferPool, Snapshot]] = []
        self.reads: list[tuple[BufferPool, PageNo, int, asyncio.Task[bytes], Snapshot | None]] = []
        self.done = 0

    def image(self, page: PageNo) -> bytes:
        self.counter += 1
        return f"page {page} version {self.counter} ".encode().ljust(PAGE_SIZE, b"#")

    def steps(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [
            *[self.commit] * 3,
            *[self.durable] * 3,
            *[self.catch_up] * 2,
            *[self.pin] * 2,
            self.unpin,
            *[self.read] * 4,
            *[self.read_the_past] * 4,
            *[self.read_at_the_tip] * 2,
            *[self.answer] * 4,
            self.cancel,
            self.join_again,
        ]

    async def step(self) -> None:
        steps = self.steps()
        await steps[self.draw(len(steps))]()
        await settle(4)
        self.collect()
        self.check()

    # -- the volume changes

    async def commit(self) -> None:
        if any(read[4] is None for read in self.reads):
            return  # a write transaction is reading at the tip, so it has the lock
        changed = sorted({self.draw(PAGES) for _ in range(1 + self.draw(3))})
        tip = self.writer.tip.lsn
        changes = [PageChange(p, self.volume.version(p, tip)[1], self.image(p)) for p in changed]
        mark, lsns = self.volume.commit(changes, PAGES)
        self.writer.install(mark, {c.page: (lsns[c.page], c.after) for c in changes})

    async def durable(self) -> None:
        pending = [m for m in self.volume.commits if m.lsn > self.volume.vdl.lsn]
        if pending:
            self.volume.make_durable(pending[self.draw(len(pending))])

    async def catch_up(self) -> None:
        self.feed.catch_up()

    async def join_again(self) -> None:
        self.replica.reset(self.volume.vdl)

    # -- somebody reads

    async def pin(self) -> None:
        if len(self.pins) < 5:
            pool = self.pools[self.draw(2)]
            self.pins.append((pool, pool.pin()))

    async def unpin(self) -> None:
        if self.pins:
            pool, snapshot = self.pins.pop(self.draw(len(self.pins)))
            pool.unpin(snapshot)

    async def read(self) -> None:
        pool = self.pools[self.draw(2)]
        self.start(pool, pool.pin())

    async def read_the_past(self) -> None:
        if self.pins:
            pool, kept = self.pins[self.draw(len(self.pins))]
            self.start(pool, pool.pin(kept.mark))

    async def read_at_the_tip(self) -> None:
        self.start(self.writer, None)

    def start(self, pool: BufferPool, snapshot: Snapshot | None) -> None:
        if len(self.reads) > 8:
            if snapshot is not None:
                pool.unpin(snapshot)
            return
        page = self.draw(PAGES)
        at = pool.tip.lsn if snapshot is None else snapshot.mark.lsn
        task = asyncio.create_task(pool.get(page, at))
        self.reads.append((pool, page, at, task, snapshot))
        if self.draw(2):
            self.volume.gate.clear()  # storage does not answer before `answer`

    async def answer(self) -> None:
        self.volume.gate.set()
        await settle(8)

    async def cancel(self) -> None:
        if self.reads:
            self.reads[self.draw(len(self.reads))][3].cancel()

    def collect(self) -> None:
        for read in [r for r in self.reads if r[3].done()]:
            self.reads.remove(read)
            pool, page, at, task, snapshot = read
            if snapshot is not None:
                pool.unpin(snapshot)
            if not task.cancelled():
                self.done += 1
                assert task.result() == self.volume.version(page, at)[1]

    # -- what must always hold

    def check(self) -> None:
        for pool in self.pools:
            self.check_pins(pool)
            held = 0
            for page, entry in pool._versions._pages.items():
                held += len(entry.old) + (entry.lsn != UNKNOWN)
                if entry.lsn != UNKNOWN:
                    assert (entry.lsn, entry.image) == self.volume.version(page, pool.tip.lsn)
                for lsn, upto, image in entry.old:
                    assert self.volume.version(page, lsn) == (lsn, image)
                    assert self.volume.version(page, upto) == (lsn, image)
                    needed = pool._versions.pins.first_within(lsn, upto) is not None
                    assert needed or upto >= pool.visible.lsn
            assert pool.images == held

    def check_pins(self, pool: BufferPool) -> None:
        points = [s.mark.lsn for p, s in self.pins if p is pool]
        points += [s.mark.lsn for p, _, _, _, s in self.reads if p is pool and s is not None]
        lowest = min([*points, pool.visible.lsn])
        assert pool.min_pinned() <= lowest
        if not self.reads:
            assert pool.min_pinned() == lowest

    async def finish(self) -> None:
        await self.answer()
        await settle(20)
        self.collect()
        assert not self.reads
        for pool, snapshot in self.pins:
            pool.unpin(snapshot)
        self.volume.make_durable()
        self.feed.catch_up()
        for pool in self.pools:
            assert len(pool._versions.pins) == 0
            assert not pool._flights
            assert not pool._flying
            pool._versions.evict()
            assert pool.images <= CAPACITY


@pytest.fixture(autouse=True, scope="module")
def forgetful() -> Iterator[None]:
    """Forget changes as early as possible."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.sql.pool.REMEMBERED_MIN", 1)
        yield


async def walk(draw: Draw, steps: int) -> World:
    world = World(draw)
    for _ in range(steps):
        await world.step()
    await world.finish()
    return world


@settings(max_examples=100, deadline=None)
@given(data=st.data(), steps=st.integers(1, 40))
def test_short_histories(data: st.DataObject, steps: int) -> None:
    asyncio.run(walk(lambda n: data.draw(st.integers(0, n - 1)), steps))


@pytest.mark.parametrize("seed", range(8))
async def test_long_histories(seed: int) -> None:
    world = await walk(random.Random(seed).randrange, 1500)
    assert world.done > 300, "most reads were answered and compared"
