"""The buffer pool against a volume that simply keeps every version of every page.

One volume, a writer's pool and a replica's, both tiny. Hypothesis commits, moves VDL, pins, reads,
holds reads back half-way, cancels them and resets the replica, in any order. Whatever a read
returns must be the page at exactly its read point.
"""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.log.record import PageChange
from engine.sql.pool import BufferPool, Snapshot
from engine.sql.versions import UNKNOWN
from engine.types import PAGE_SIZE, PageNo
from tests.sql.client import settle
from tests.sql.local_volume import Feed, LocalVolume

PAGES = 12
CAPACITY = 5

pages = st.integers(0, PAGES - 1)
pools = st.sampled_from(["writer", "replica"])


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.volume = LocalVolume()
        self.volume.hold()
        self.counter = 0
        self.volume.commit(
            [PageChange(p, None, self.image(p)) for p in range(PAGES)], PAGES
        )
        self.volume.make_durable()
        self.pools = {
            name: BufferPool(self.volume, capacity_pages=CAPACITY, start=self.volume.vdl)
            for name in ("writer", "replica")
        }
        self.volume.on_durable.append(self.pools["writer"].set_visible)
        self.feed = Feed(self.volume, self.pools["replica"])
        self.pins: list[tuple[str, Snapshot]] = []
        self.reads: list[tuple[str, PageNo, int, asyncio.Task[bytes], Snapshot | None]] = []
        self.at_tip: asyncio.Task[bytes] | None = None  # the write transaction's read

    def image(self, page: PageNo) -> bytes:
        self.counter += 1
        return f"page {page} version {self.counter} ".encode().ljust(PAGE_SIZE, b"#")

    def run(self, work: Any) -> Any:
        async def main() -> Any:
            return await work if asyncio.iscoroutine(work) else work()

        return self.runner.run(main())

    # -- the volume changes

    @precondition(lambda self: self.at_tip is None)
    @rule(changed=st.sets(pages, min_size=1, max_size=4))
    def commit(self, changed: set[PageNo]) -> None:
        pool = self.pools["writer"]
        before = {p: self.volume.version(p, pool.tip.lsn)[1] for p in changed}
        changes = [PageChange(p, before[p], self.image(p)) for p in sorted(changed)]
        mark, lsns = self.volume.commit(changes, PAGES)
        pool.install(mark, {c.page: (lsns[c.page], c.after) for c in changes})

    @rule(data=st.data())
    def durable(self, data: st.DataObject) -> None:
        pending = [m for m in self.volume.commits if m.lsn > self.volume.vdl.lsn]
        if pending:
            self.run(lambda: self.volume.make_durable(data.draw(st.sampled_from(pending))))

    @rule()
    def replica_catches_up(self) -> None:
        self.feed.catch_up()

    @rule()
    def replica_joins_again(self) -> None:
        self.pools["replica"].reset(self.volume.vdl)

    # -- somebody reads

    @rule(name=pools)
    def pin(self, name: str) -> None:
        if len(self.pins) < 6:
            self.pins.append((name, self.pools[name].pin()))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        name, snapshot = self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1)))
        self.pools[name].unpin(snapshot)

    @rule(data=st.data(), page=pages)
    def read(self, data: st.DataObject, page: PageNo) -> None:
        if self.pins and data.draw(st.booleans()):
            name, kept = data.draw(st.sampled_from(self.pins))
            mark = kept.mark
        else:
            name = data.draw(pools)
            mark = self.pools[name].visible
        pool = self.pools[name]
        snapshot = pool.pin(mark)  # a reader holds its own pin as long as it reads
        self.start(name, page, mark.lsn, snapshot)

    @precondition(lambda self: self.at_tip is None)
    @rule(page=pages)
    def read_at_the_tip(self, page: PageNo) -> None:
        self.at_tip = self.start("writer", page, self.pools["writer"].tip.lsn, None)

    def start(
        self, name: str, page: PageNo, at: int, snapshot: Snapshot | None
    ) -> asyncio.Task[bytes]:
        async def main() -> asyncio.Task[bytes]:
            task = asyncio.create_task(self.pools[name].get(page, at))
            await settle(5)
            return task

        task: asyncio.Task[bytes] = self.run(main())
        self.reads.append((name, page, at, task, snapshot))
        self.collect()
        return task

    @rule()
    def hold_reads_back(self) -> None:
        self.volume.gate.clear()

    @rule()
    def let_reads_pass(self) -> None:
        self.volume.gate.set()
        self.run(settle(10))
        self.collect()

    @precondition(lambda self: self.reads)
    @rule(data=st.data())
    def cancel_a_read(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.reads))[3]
        task.cancel()
        self.run(settle(5))
        self.collect()

    def collect(self) -> None:
        for read in [r for r in self.reads if r[3].done()]:
            self.reads.remove(read)
            name, page, at, task, snapshot = read
            if task is self.at_tip:
                self.at_tip = None
            if snapshot is not None:
                self.pools[name].unpin(snapshot)
            if not task.cancelled():
                assert task.result() == self.volume.version(page, at)[1]

    # -- what must always hold

    @invariant()
    def what_is_cached_is_right(self) -> None:
        for pool in self.pools.values():
            held = 0
            for page, entry in pool._versions._pages.items():
                held += len(entry.old) + (entry.lsn != UNKNOWN)
                if entry.lsn != UNKNOWN:
                    assert (entry.lsn, entry.image) == self.volume.version(page, pool.tip.lsn)
                for lsn, upto, image in entry.old:
                    assert self.volume.version(page, lsn) == (lsn, image)
                    assert self.volume.version(page, upto) == (lsn, image)
            assert pool.images == held

    @invariant()
    def pins_are_what_is_pinned(self) -> None:
        for name, pool in self.pools.items():
            points = [s.mark.lsn for n, s in self.pins if n == name]
            points += [r[4].mark.lsn for r in self.reads if r[0] == name and r[4] is not None]
            lowest = min([*points, pool.visible.lsn])
            assert pool.min_pinned() <= lowest
            if not self.reads:
                assert pool.min_pinned() == lowest

    @invariant()
    def old_versions_are_somebodys(self) -> None:
        for pool in self.pools.values():
            pins = pool._versions.pins
            for entry in pool._versions._pages.values():
                for lsn, upto, _ in entry.old:
                    needed = upto >= pool.visible.lsn or pins.first_within(lsn, upto) is not None
                    assert needed

    def teardown(self) -> None:
        self.volume.gate.set()
        self.run(settle(20))
        self.collect()
        assert not self.reads
        for name, snapshot in self.pins:
            self.pools[name].unpin(snapshot)
        self.run(self.volume.make_durable)
        self.feed.catch_up()
        for pool in self.pools.values():
            assert len(pool._versions.pins) == 0
            assert not pool._flights
            assert not pool._flying
            pool._versions.evict()
            assert pool.images <= CAPACITY
        self.runner.close()


PoolMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestPool = PoolMachine.TestCase
