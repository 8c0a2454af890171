from __future__ import annotations

import asyncio

import pytest

from engine.errors import Corrupt, QuorumLost
from engine.log.diff import diff_page
from engine.log.record import PageChange, Record
from engine.sql.pool import BufferPool
from engine.types import PAGE_SIZE, CommitMark, PageNo
from tests.sql.client import parked, settle
from tests.sql.local_volume import EMPTY, LocalVolume


def image(text: str) -> bytes:
    return text.encode().ljust(PAGE_SIZE, b".")


class World:
    """A volume, and a pool over it that the test writes through."""

    def __init__(self, capacity: int = 100, *, pages: int = 0) -> None:
        self.volume = LocalVolume()
        self.volume.hold()
        if pages:
            self.commit(**{f"p{n}": f"page {n}" for n in range(pages)})
            self.durable()
        self.pool = BufferPool(self.volume, capacity_pages=capacity, start=self.volume.vdl)
        self.volume.on_durable.append(self.pool.set_visible)

    def commit(self, **texts: str) -> CommitMark:
        """p3="x" makes page 3 an image of x, in the volume only."""
        changes = []
        for name, text in texts.items():
            page = int(name[1:])
            known = self.volume.versions.get(page)
            changes.append(PageChange(page, known[-1][1] if known else None, image(text)))
        size = max([self.volume.commits[-1].pages, *(c.page + 1 for c in changes)])
        mark, _ = self.volume.commit(changes, size)
        return mark

    def write(self, **texts: str) -> CommitMark:
        """The same through the pool, as the writer does."""
        mark = self.commit(**texts)
        pages: dict[PageNo, tuple[int, bytes]] = {}
        for name in texts:
            page = int(name[1:])
            pages[page] = self.volume.version(page, mark.lsn)
        self.pool.install(mark, pages)
        return mark

    def durable(self) -> None:
        self.volume.make_durable()

    def follow(self) -> None:
        """What a replica's feed does."""
        self.durable_quietly()
        done = self.pool.visible.lsn
        records = [r for r in self.volume.log if done < r.lsn <= self.volume.vdl.lsn]
        self.pool.apply(records, self.volume.vdl)

    def durable_quietly(self) -> None:
        self.volume.on_durable.clear()
        self.volume.make_durable()

    async def text(self, page: PageNo, at: int) -> str:
        return (await self.pool.get(page, at)).rstrip(b".").decode()


# -- reading


async def test_with_plenty_of_room_a_miss_brings_its_neighbours() -> None:
    world = World(capacity=1024, pages=100)
    lsn = world.volume.vdl.lsn
    assert await world.text(40, lsn) == "page 40"
    ((pages, read_at),) = world.volume.reads
    assert pages[0] == 40
    assert sorted(pages) == list(range(32, 64))
    assert read_at == lsn
    assert [await world.text(page, lsn) for page in (32, 63)] == ["page 32", "page 63"]
    assert len(world.volume.reads) == 1
    await world.text(99, lsn)
    assert sorted(world.volume.reads[1][0]) == [96, 97, 98, 99]


async def test_without_it_a_miss_is_one_page() -> None:
    world = World(capacity=1024, pages=1000)
    lsn = world.volume.vdl.lsn
    for page in range(0, 768, 32):
        await world.text(page, lsn)
    await world.text(900, lsn)
    assert world.volume.reads[-1][0] == (900,)
    small = World(capacity=1023, pages=100)
    await small.text(40, small.volume.vdl.lsn)
    assert small.volume.reads[-1][0] == (40,)


async def test_a_pool_with_room_for_the_whole_volume_is_warmed() -> None:
    world = World(capacity=1024, pages=300)
    lsn = world.volume.vdl.lsn
    await world.text(40, lsn)
    await world.pool.warm()
    assert all(world.pool.get_nowait(page, lsn) == image(f"page {page}") for page in range(300))
    fetched = [page for pages, _ in world.volume.reads for page in pages]
    assert sorted(fetched) == list(range(300)), "each once"
    assert len(world.volume.reads) == 1 + 3
    await world.pool.warm()
    assert len(world.volume.reads) == 1 + 3


async def test_a_pool_that_the_volume_does_not_fit_is_not_warmed() -> None:
    for world in (World(capacity=1024, pages=769), World(capacity=1023, pages=300)):
        await world.pool.warm()
        assert world.volume.reads == []


async def test_what_is_written_while_the_pool_is_warmed_stays_the_newest() -> None:
    world = World(capacity=1024, pages=300)
    world.volume.gate.clear()
    warming = await parked(world.pool.warm())
    mark = world.write(p3="new")
    reading = await parked(world.text(3, world.pool.visible.lsn))
    world.volume.gate.set()
    await warming
    assert await reading == "page 3"
    assert world.pool.get_nowait(3, mark.lsn) == image("new")
    world.durable()
    assert await world.text(3, world.pool.visible.lsn) == "new"
    assert await world.text(4, world.pool.visible.lsn) == "page 4"


async def test_warming_ends_with_the_source_and_passes_damage_by() -> None:
    world = World(capacity=1024, pages=300)
    world.volume.failure = QuorumLost("nobody answers")
    with pytest.raises(QuorumLost):
        await world.pool.warm()
    world.volume.failure = Corrupt("a page is damaged")
    await world.pool.warm()
    assert world.pool.images == 0
    world.volume.failure = None
    await world.pool.warm()
    assert world.pool.images == 300


async def test_a_miss_is_fetched_once_and_then_cached() -> None:
    world = World(pages=2)
    at = world.pool.visible.lsn
    assert world.pool.get_nowait(1, at) is None
    assert await world.text(1, at) == "page 1"
    assert world.pool.get_nowait(1, at) == image("page 1")
    assert await world.text(1, at) == "page 1"
    assert len(world.volume.reads) == 1


async def test_concurrent_misses_of_a_page_share_one_fetch() -> None:
    world = World(pages=2)
    world.volume.gate.clear()
    at = world.pool.visible.lsn
    tasks = [await parked(world.text(0, at)) for _ in range(5)]
    world.volume.gate.set()
    assert await asyncio.gather(*tasks) == ["page 0"] * 5
    assert len(world.volume.reads) == 1


async def test_an_error_reaches_all_that_wait_and_nothing_is_kept() -> None:
    world = World(pages=1)
    world.volume.gate.clear()
    at = world.pool.visible.lsn
    tasks = [await parked(world.text(0, at)) for _ in range(3)]
    world.volume.failure = QuorumLost("nobody answers")
    world.volume.gate.set()
    for task in tasks:
        with pytest.raises(QuorumLost):
            await task
    world.volume.failure = None
    assert await world.text(0, at) == "page 0"
    assert world.pool.min_pinned() == at


async def test_when_the_fetching_task_is_cancelled_another_one_takes_over() -> None:
    world = World(pages=1)
    world.volume.gate.clear()
    at = world.pool.visible.lsn
    first, second, third = [await parked(world.text(0, at)) for _ in range(3)]
    first.cancel()
    await settle()
    assert first.cancelled()
    world.volume.gate.set()
    assert await asyncio.gather(second, third) == ["page 0"] * 2
    assert len(world.volume.reads) == 2


async def test_a_scan_is_fetched_in_growing_portions() -> None:
    world = World(capacity=1000, pages=40)
    at = world.pool.visible.lsn
    for page in range(40):
        assert await world.text(page, at) == f"page {page}"
    assert [len(pages) for pages, _ in world.volume.reads] == [1, 2, 4, 8, 16, 9]
    assert world.pool.counters["pool_misses"] == 6


async def test_a_damaged_neighbour_does_not_hide_a_page() -> None:
    world = World(pages=10)
    at = world.pool.visible.lsn

    async def read_pages(pages: list[int], lsn: int) -> list[tuple[int, bytes]]:
        if 2 in pages:
            raise Corrupt("page 2 is rotten")
        return [world.volume.version(page, lsn) for page in pages]

    world.volume.read_pages = read_pages  # type: ignore[method-assign, assignment]
    assert await world.text(0, at) == "page 0"
    assert await world.text(1, at) == "page 1"  # asks for 1 and 2, then for 1 alone
    with pytest.raises(Corrupt, match="rotten"):
        await world.text(2, at)


@pytest.mark.parametrize("answer", [(0, b"short"), (99, bytes(PAGE_SIZE))])
async def test_an_answer_that_cannot_be_is_refused(answer: tuple[int, bytes]) -> None:
    world = World(pages=1)

    async def read_pages(pages: list[int], lsn: int) -> list[tuple[int, bytes]]:
        return [answer]

    world.volume.read_pages = read_pages  # type: ignore[method-assign, assignment]
    with pytest.raises(Corrupt):
        await world.text(0, world.pool.visible.lsn)


# -- versions


async def test_a_snapshot_keeps_seeing_its_state_while_the_writer_goes_on() -> None:
    world = World(pages=1)
    snapshot = world.pool.pin()
    assert await world.text(0, snapshot.mark.lsn) == "page 0"
    for number in range(5):
        world.write(p0=f"new {number}")
        world.durable()
        assert await world.text(0, snapshot.mark.lsn) == "page 0"
        assert await world.text(0, world.pool.visible.lsn) == f"new {number}"
    assert len(world.volume.reads) == 1
    assert world.pool.images == 2  # what lies between is nobody's
    world.pool.unpin(snapshot)
    assert world.pool.images == 1


async def test_the_tip_is_ahead_of_what_new_snapshots_see() -> None:
    world = World(pages=1)
    await world.text(0, world.pool.visible.lsn)
    first, second = world.write(p0="first"), world.write(p0="second")
    assert world.pool.tip == second
    assert await world.text(0, world.pool.visible.lsn) == "page 0"
    assert await world.text(0, second.lsn) == "second"
    world.volume.make_durable(first)
    assert world.pool.visible == first
    assert await world.text(0, first.lsn) == "first"
    world.durable()
    assert await world.text(0, world.pool.visible.lsn) == "second"
    assert world.pool.images == 1
    assert len(world.volume.reads) == 1


async def test_an_old_page_fetched_late_serves_only_its_read_point() -> None:
    world = World(pages=1)
    snapshot = world.pool.pin()
    world.write(p0="new")
    world.durable()
    assert await world.text(0, snapshot.mark.lsn) == "page 0"
    assert await world.text(0, world.pool.visible.lsn) == "new"
    world.pool.unpin(snapshot)
    assert world.pool.images == 1


async def test_a_page_that_changes_during_its_fetch_is_not_taken_for_current() -> None:
    world = World(pages=1)
    snapshot = world.pool.pin()
    world.volume.gate.clear()
    task = await parked(world.text(0, snapshot.mark.lsn))
    world.write(p0="new")
    world.durable()
    world.volume.gate.set()
    assert await task == "page 0"
    assert await world.text(0, world.pool.visible.lsn) == "new"


async def test_a_missing_page_is_fetched_at_vdl_and_serves_the_tip() -> None:
    world = World(pages=2)
    tip = world.write(p0="not durable")
    assert await world.text(1, tip.lsn) == "page 1"  # LocalVolume refuses to read above VDL
    assert world.pool.get_nowait(1, tip.lsn) is not None


async def test_what_is_above_vdl_is_never_evicted() -> None:
    world = World(capacity=2, pages=10)
    world.write(p0="a", p1="b", p2="c", p3="d")
    tip = world.pool.tip.lsn
    for page in range(4, 10):
        await world.text(page, tip)
    assert [await world.text(page, tip) for page in range(4)] == ["a", "b", "c", "d"]
    assert {page for pages, _ in world.volume.reads for page in pages} == set(range(4, 10))
    world.durable()
    await world.text(4, tip)
    assert world.pool.images <= 2


async def test_least_recently_used_pages_go_first() -> None:
    world = World(capacity=3, pages=10)
    at = world.pool.visible.lsn
    for page in (0, 2, 4):
        await world.text(page, at)
    await world.text(0, at)
    await world.text(6, at)
    cached = [page for page in range(10) if world.pool.get_nowait(page, at) is not None]
    assert cached == [0, 4, 6]


# -- replicas


async def test_a_replica_changes_cached_pages_and_discards_the_rest() -> None:
    world = World(pages=3)
    await world.text(0, world.pool.visible.lsn)
    world.commit(p0="new 0", p2="new 2")
    world.commit(p0="newer 0")
    world.follow()
    at = world.pool.visible.lsn
    assert world.pool.get_nowait(0, at) == image("newer 0")
    assert world.pool.get_nowait(2, at) is None
    assert await world.text(2, at) == "new 2"
    assert world.pool.images == 2


async def test_a_replica_keeps_old_versions_for_open_snapshots() -> None:
    world = World(pages=1)
    snapshot = world.pool.pin()
    await world.text(0, snapshot.mark.lsn)
    world.commit(p0="new")
    world.follow()
    assert await world.text(0, snapshot.mark.lsn) == "page 0"
    assert await world.text(0, world.pool.visible.lsn) == "new"
    assert world.pool.images == 2
    world.pool.unpin(snapshot)
    assert world.pool.images == 1


async def test_redo_that_arrives_during_a_fetch_is_replayed_on_it() -> None:
    world = World(pages=1)
    snapshot = world.pool.pin()
    world.volume.gate.clear()
    task = await parked(world.text(0, snapshot.mark.lsn))
    for text in ("new", "newer", "newest"):
        world.commit(p0=text)
        world.follow()
    world.volume.gate.set()
    assert await task == "page 0"
    assert world.pool.get_nowait(0, world.pool.visible.lsn) == image("newest")
    assert len(world.volume.reads) == 1


async def test_a_page_changed_before_its_fetch_at_an_old_point_is_not_current() -> None:
    world = World(pages=1)
    snapshot = world.pool.pin()
    world.commit(p0="new")
    world.follow()
    world.volume.gate.clear()
    task = await parked(world.text(0, snapshot.mark.lsn))
    world.commit(p0="newer")
    world.follow()
    world.volume.gate.set()
    assert await task == "page 0"
    assert await world.text(0, world.pool.visible.lsn) == "newer"


async def test_reset_drops_the_cache_and_old_snapshots_read_on() -> None:
    world = World(pages=1)
    snapshot = world.pool.pin()
    await world.text(0, snapshot.mark.lsn)
    world.volume.gate.clear()
    mark = world.commit(p0="new")
    world.durable_quietly()
    world.pool.reset(mark)
    task = await parked(world.text(0, snapshot.mark.lsn))
    world.pool.reset(mark)
    world.volume.gate.set()
    assert await task == "page 0"
    assert await world.text(0, mark.lsn) == "new"
    assert await world.text(0, snapshot.mark.lsn) == "page 0"
    assert world.pool.min_pinned() == snapshot.mark.lsn
    world.pool.unpin(snapshot)
    assert world.pool.min_pinned() == mark.lsn


# -- read points


def test_min_pinned_is_what_garbage_collection_may_not_pass() -> None:
    world = World(pages=1)
    first = world.pool.pin()
    world.write(p0="a")
    world.durable()
    second = world.pool.pin()
    assert world.pool.min_pinned() == first.mark.lsn
    world.pool.unpin(first)
    world.pool.unpin(first)
    assert world.pool.min_pinned() == second.mark.lsn
    world.write(p0="b")
    world.durable()
    world.pool.unpin(second)
    assert world.pool.min_pinned() == world.pool.visible.lsn


async def test_a_fetch_pins_its_read_point() -> None:
    world = World(pages=1)
    world.volume.gate.clear()
    before = world.pool.visible.lsn
    task = await parked(world.text(0, before))
    world.write(p0="new")
    world.durable()
    assert world.pool.min_pinned() == before
    world.volume.gate.set()
    await task
    assert world.pool.min_pinned() == world.pool.visible.lsn


def test_visible_never_goes_back() -> None:
    world = World(pages=1)
    world.write(p0="a")
    world.durable()
    world.pool.set_visible(EMPTY)
    assert world.pool.visible == world.pool.tip


async def test_what_it_remembers_of_changes_is_bounded_by_the_pins() -> None:
    world = World(capacity=10)
    for start in (0, 5000, 10_000):
        world.write(**{f"p{n}": "x" for n in range(start, start + 5000)})
        world.durable()
    assert len(world.pool._changed) <= 5000


def test_a_pool_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        BufferPool(LocalVolume(), capacity_pages=0, start=EMPTY)


async def test_a_full_record_needs_no_older_version() -> None:
    world = World(pages=1)
    await world.text(0, world.pool.visible.lsn)
    full, _, ranges = diff_page(None, image("fresh"))
    lsn = world.pool.visible.lsn + 1
    mark = CommitMark(lsn, 0, 1)
    world.pool.apply([Record(lsn, lsn - 1, 0, 1, 0, full, ranges, mark)], mark)
    assert world.pool.get_nowait(0, lsn) == image("fresh")
