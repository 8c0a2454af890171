"""What every binding of the page-store port promises (engine.storage.pagestore: PageStore)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.sim.disk import DiskImage
from cluster.sim.pagestore import SimPageStore
from engine.errors import ConfigError
from engine.faults.store import FaultyPageStore
from engine.storage.pagestore import PageStore, PageVersion, SegmentRow, Trim
from engine.storage.pagestore_memory import MemoryPageStore
from engine.storage.pagestore_sqlite import SqlitePageStore
from engine.types import (
    PAGE_SIZE,
    Ancestor,
    CommitMark,
    Member,
    Membership,
    Replacement,
    SegmentId,
    Truncation,
)
from tests.support.faulty import Faults

VOLUME = 3
KEY = SegmentId(VOLUME, 0)
OTHER = SegmentId(VOLUME, 1)
Bind = Callable[[Path], Callable[[], PageStore]]


def sqlite(folder: Path) -> Callable[[], PageStore]:
    return lambda: SqlitePageStore(str(folder / "node.db"))


def memory(_folder: Path) -> Callable[[], PageStore]:
    disk = MemoryPageStore()
    return lambda: disk


def simulated(_folder: Path) -> Callable[[], PageStore]:
    medium = MemoryPageStore()
    image = DiskImage("storage-1", random.Random(1))
    return lambda: SimPageStore(medium, image, random.Random(2), None)


def faulty(folder: Path) -> Callable[[], PageStore]:
    watch = Faults(folder).watch("storage-1")
    return lambda: FaultyPageStore(SqlitePageStore(str(folder / "faulty.db")), watch)


BINDINGS = {"sqlite": sqlite, "faulty": faulty, "memory": memory, "simulated": simulated}


class World:
    """One store, and the same as a restarted node sees it."""

    def __init__(self, make: Callable[[], PageStore]) -> None:
        self._make = make
        self.store = make()

    async def open(self) -> PageStore:
        await self.store.open(name="storage-1", incarnation="first")
        return self.store

    async def restart(self) -> PageStore:
        await self.store.close()
        self.store = self._make()
        return await self.open()

    async def open_as(self, incarnation: str) -> str:
        """Restart with another incarnation on offer; which one counts. An open store is closed first:
        one opened twice leaves two connections and their threads behind."""
        await self.store.close()
        self.store = self._make()
        return await self.store.open(name="storage-1", incarnation=incarnation)


@pytest.fixture(params=sorted(BINDINGS))
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    world = World(BINDINGS[request.param](tmp_path))
    await world.open()
    yield world
    await world.store.close()


def image(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE_SIZE)


def version(page: int, lsn: int) -> PageVersion:
    return PageVersion.make(VOLUME, page, lsn, image(page * 1000 + lsn))


def row(key: SegmentId = KEY, **given: object) -> SegmentRow:
    member = Member("storage-1", "az1", "127.0.0.1:1", "first")
    return SegmentRow(key, "first", Membership(key.pg, 1, (member,)), **given)  # type: ignore[arg-type]


async def test_its_incarnation_is_the_first_one_given(world: World) -> None:
    assert await world.open_as("second") == "first"
    assert await world.open_as("third") == "first"


async def test_another_nodes_store_is_refused(world: World) -> None:
    await world.store.close()
    with pytest.raises(ConfigError, match="storage-1"):
        await world.store.open(name="storage-2", incarnation="x")


async def test_rows_are_kept_whole_and_sorted(world: World) -> None:
    rows = [
        row(OTHER, epoch=7, damaged=True),
        row(KEY, applied=5, scl=9, known_vdl=8, floor=4, commit=CommitMark(8, 1_700_000, 42)),
    ]
    await world.store.put_segments(rows)
    store = await world.restart()
    assert await store.segments() == [rows[1], rows[0]]
    await store.put_segments([row(KEY, applied=6)])
    assert await store.segments() == [row(KEY, applied=6), rows[0]]


async def test_a_change_of_members_is_kept(world: World) -> None:
    new = Member("storage-7", "az1", "127.0.0.1:7", "second")
    stable = row().membership
    during = Membership(0, 2, stable.members, Replacement(stable.members[0], new))
    await world.store.put_segments([replace(row(), membership=during)])
    store = await world.restart()
    assert [r.membership for r in await store.segments()] == [during]


async def test_a_dropped_segment_leaves_nothing_and_others_alone(world: World) -> None:
    await world.store.put_segments([row(KEY), row(OTHER)])
    await world.store.put_versions(KEY, [version(0, 3)])
    await world.store.drop_segment(KEY)
    await world.store.drop_segment(KEY)
    store = await world.restart()
    assert await store.segments() == [row(OTHER)]
    assert await store.newest(KEY, [0], 9) == {}
    assert await store.counts() == {}


async def test_truncations_are_replaced_as_one_list(world: World) -> None:
    ranges = [Truncation(3, 50, 60), Truncation(2, 10, 20)]
    await world.store.put_segments([row()], {VOLUME: ranges, VOLUME + 1: [Truncation(2, 1, 2)]})
    await world.store.put_segments([row()])
    assert (await world.store.truncations())[VOLUME] == tuple(sorted(ranges))
    await world.store.put_segments([row()], {VOLUME: [Truncation(4, 10, 90)]})
    store = await world.restart()
    assert await store.truncations() == {
        VOLUME: (Truncation(4, 10, 90),),
        VOLUME + 1: (Truncation(2, 1, 2),),
    }


async def test_newest_is_the_last_at_or_below(world: World) -> None:
    await world.store.put_versions(KEY, [version(0, 3), version(0, 7), version(4, 5)])
    store = await world.restart()
    assert await store.newest(KEY, [0, 1, 4], 2) == {}
    assert await store.newest(KEY, [0, 1, 4], 3) == {0: version(0, 3)}
    assert await store.newest(KEY, [0, 1, 4], 6) == {0: version(0, 3), 4: version(4, 5)}
    assert await store.newest(KEY, [0, 1, 4], 99) == {0: version(0, 7), 4: version(4, 5)}
    assert await store.newest(KEY, [], 99) == {}


async def test_a_version_put_twice_is_the_later_one(world: World) -> None:
    rotten = PageVersion(0, 3, image(1), 1)
    await world.store.put_versions(KEY, [rotten])
    assert (await world.store.newest(KEY, [0], 9))[0] == rotten, "handed out as found"
    await world.store.put_versions(KEY, [version(0, 3)], row(applied=3))
    assert await world.store.newest(KEY, [0], 9) == {0: version(0, 3)}
    assert await world.store.segments() == [row(applied=3)]
    assert await world.store.counts() == {KEY: (1, 1)}


async def test_a_replaced_version_is_gone(world: World) -> None:
    await world.store.put_versions(KEY, [version(0, 3), version(0, 5)])
    await world.store.replace_version(KEY, 0, 3, version(0, 4))
    assert await world.store.newest(KEY, [0], 3) == {}
    assert await world.store.newest(KEY, [0], 4) == {0: version(0, 4)}
    assert await world.store.counts() == {KEY: (2, 1)}


@pytest.mark.parametrize("pages", [None, [0, 1, 9]])
async def test_what_is_superseded_at_the_floor_goes(world: World, pages: list[int] | None) -> None:
    versions = [version(p, lsn) for p in (0, 1) for lsn in (2, 4, 6, 8)] + [version(2, 5)]
    await world.store.put_versions(KEY, versions)
    await world.store.put_versions(OTHER, [version(2600, 2), version(2600, 3)])
    assert await world.store.drop_superseded(row(floor=6), 6, pages) == 4
    store = await world.restart()
    assert await store.segments() == [row(floor=6)]
    left = [v for _, v in await store.scan((0, -1, 0), 99)]
    assert left == [v for v in versions if v.lsn >= 5] + [version(2600, 2), version(2600, 3)]


async def test_an_ancestry_is_kept(world: World) -> None:
    forked = row(KEY, ancestry=(Ancestor(9, 70), Ancestor(2, 1 << 40)))
    await world.store.put_segments([forked, row(OTHER)])
    store = await world.restart()
    assert await store.segments() == [forked, row(OTHER)]


def lsns(found: list[tuple[SegmentId, PageVersion]]) -> list[tuple[int, int]]:
    return [(v.page, v.lsn) for _, v in found]


@pytest.mark.parametrize("pages", [None, [0, 1, 9]])
async def test_what_is_superseded_and_to_be_kept_stays(
    world: World, pages: list[int] | None
) -> None:
    versions = [version(0, lsn) for lsn in (2, 4, 6, 8)] + [version(1, lsn) for lsn in (1, 7)]
    await world.store.put_versions(KEY, versions)
    assert await world.store.drop_superseded(row(floor=7), 7, pages, keep=[0, 1, 2, 5, 6]) == 0
    assert lsns(await world.store.scan((0, -1, 0), 99)) == [(v.page, v.lsn) for v in versions]
    assert await world.store.drop_superseded(row(floor=8), 8, pages, keep=[5]) == 2
    store = await world.restart()
    assert lsns(await store.scan((0, -1, 0), 99)) == [(0, 4), (0, 8), (1, 1), (1, 7)]
    assert await store.drop_superseded(row(floor=8), 8, pages) == 2
    assert lsns(await store.scan((0, -1, 0), 99)) == [(0, 8), (1, 7)]


async def test_of_a_dropped_segment_what_is_to_be_kept_stays(world: World) -> None:
    await world.store.put_segments([row(KEY), row(OTHER)])
    await world.store.put_versions(KEY, [version(p, lsn) for p in (0, 1) for lsn in (2, 4, 6)])
    await world.store.put_versions(KEY, [version(2, 5)])
    await world.store.put_versions(OTHER, [version(2600, lsn) for lsn in (2, 3, 9)])
    trims = [Trim(OTHER, (2, 3), above=3), Trim(SegmentId(77, 0), ())]
    await world.store.drop_segment(KEY, keep=[3, 4], trims=trims)
    store = await world.restart()
    assert await store.segments() == [row(OTHER)]
    assert lsns(await store.scan((0, -1, 0), 99)) == [
        *((0, 2), (0, 4), (1, 2), (1, 4)),
        *((2600, 2), (2600, 3), (2600, 9)),
    ]
    await store.drop_segment(OTHER, keep=[9], trims=[Trim(KEY, (9,))])
    assert lsns(await store.scan((0, -1, 0), 99)) == [(0, 4), (1, 4), (2600, 9)]
    await store.drop_segment(OTHER, trims=[Trim(KEY, ())])
    assert await store.counts() == {}


async def test_pages_are_counted_by_whose_they_are(world: World) -> None:
    parent, grand = SegmentId(8, 0), SegmentId(9, 0)
    clone = row(KEY, ancestry=(Ancestor(8, 5), Ancestor(9, 7)))
    await world.store.put_versions(KEY, [version(0, 3), version(0, 8)])
    await world.store.put_versions(OTHER, [version(2600, 1)])
    await world.store.put_versions(parent, [version(0, 2), version(1, 2), version(1, 5)])
    await world.store.put_versions(parent, [version(2, 6)])
    await world.store.put_versions(grand, [version(1, 1), version(3, 5), version(4, 6)])
    store = await world.restart()
    assert await store.counts() == {KEY: (2, 1), OTHER: (1, 1), parent: (4, 3), grand: (3, 3)}
    assert await store.shared_pages(clone) == 2, "1 of the parent, 3 of the one before"
    assert await store.shared_pages(row(KEY)) == 0


async def test_a_scan_goes_through_everything_in_steps(world: World) -> None:
    versions = [version(p, lsn) for p in (0, 1, 5) for lsn in (2, 9)]
    await world.store.put_versions(KEY, versions)
    at, found = (0, -1, 0), []
    while step := await world.store.scan(at, 4):
        found += step
        at = (VOLUME, step[-1][1].page, step[-1][1].lsn)
    assert found == [(KEY, v) for v in versions]


async def test_a_write_whose_caller_is_cancelled_is_whole_or_nothing(world: World) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        lsn = seed + 1
        writing = asyncio.create_task(
            world.store.put_versions(
                KEY, [version(p, lsn) for p in range(50)], row(applied=lsn, scl=lsn)
            )
        )
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await world.restart()
        at_lsn = [v for _, v in await world.store.scan((0, -1, 0), 9999) if v.lsn == lsn]
        applied = [r.applied == lsn for r in await world.store.segments()]
        assert (len(at_lsn), applied) in ((50, [True]), (0, [False]), (0, [])), seed


async def test_all_bindings_answer_alike(tmp_path: Path) -> None:
    """Many random calls to each, every answer compared."""
    for seed in range(4):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        worlds = [World(bind(folder)) for bind in BINDINGS.values()]
        for world in worlds:
            await world.open()
        try:
            await _compared(rng, worlds, f"seed {seed}")
        finally:  # or the threads of the stores would keep a failed test from ending
            for world in worlds:
                await world.store.close()


async def _compared(rng: random.Random, worlds: list[World], where: str) -> None:
    for step in range(150):
        call = _random_call(rng)
        answers = [await call(world.store) for world in worlds]  # type: ignore[misc]
        for name, answer in zip(BINDINGS, answers, strict=True):
            assert answer == answers[0], f"{name}: {where}, step {step}"
        if rng.random() < 0.02:
            for world in worlds:
                await world.restart()


def _random_call(rng: random.Random) -> Callable[[PageStore], object]:
    key = rng.choice([KEY, OTHER])
    first = key.pg * 2560
    pages = sorted(rng.sample(range(first, first + 6), rng.randint(1, 4)))
    lsn = rng.randrange(1, 40)
    some = [version(page, lsn) for page in pages]
    calls: list[Callable[[PageStore], object]] = [
        lambda s: s.put_versions(key, some),
        lambda s: s.put_versions(key, some, row(key, applied=lsn)),
        lambda s: s.newest(key, pages, lsn),
        lambda s: s.replace_version(key, pages[0], lsn, version(pages[0], lsn + 1)),
        lambda s: s.drop_superseded(row(key, floor=lsn), lsn, rng.choice([None, pages])),
        lambda s: s.drop_superseded(row(key, floor=lsn), lsn, None, keep=[lsn - 9, lsn - 3]),
        lambda s: s.drop_segment(key, keep=rng.choice([[], [lsn], [lsn - 5, lsn + 5]])),
        lambda s: s.drop_segment(SegmentId(7, 7), trims=[Trim(key, (lsn - 9, lsn), above=lsn)]),
        lambda s: s.shared_pages(row(SegmentId(7, key.pg), ancestry=(Ancestor(VOLUME, lsn),))),
        lambda s: s.put_segments([row(key)], {VOLUME: [Truncation(2, lsn, lsn + 5)]}),
        lambda s: s.scan((VOLUME, pages[0], lsn), 5),
        lambda s: s.segments(),
        lambda s: s.truncations(),
        lambda s: s.counts(),
    ]
    chosen = rng.choice(calls)
    state = rng.getstate()

    def call(store: PageStore) -> object:
        rng.setstate(state)  # the same draws for both
        return chosen(store)

    return call
