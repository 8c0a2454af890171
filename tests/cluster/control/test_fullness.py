"""A volume's meetings with its maximum become events, once each, whoever starts again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.control.catalog import Catalog
from cluster.control.fullness import FullnessWatch
from engine.net.clock import LoopClock
from engine.net.pb import instance_pb2 as pb
from tests.cluster.control.test_catalog import NODES, make_layout


@pytest.fixture
async def catalog(tmp_path):
    opened = await Catalog.open(tmp_path / "catalog.db")
    await opened.adopt(make_layout())
    await opened.advance_epoch(await opened.cluster("main"), time_us=1)
    yield opened
    await opened.close()


def _said(meetings: int, *, full: bool, epoch: int = 1, role: str = "writer"):
    return pb.InstanceStatusReply(
        role=role, epoch=epoch, storage_full=full, full_meetings=meetings, max_pages=7680
    )


class Watched:
    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.watch = FullnessWatch(catalog, LoopClock())

    async def look(self, *answers: pb.InstanceStatusReply) -> None:
        for answer in answers:
            await self.watch.look(await self.catalog.cluster("main"), answer)

    async def events(self) -> list[str]:
        found = [what for _, subject, what in await self.catalog.events() if subject == "volume 1"]
        return [what.partition(":")[0].partition(",")[0] for what in found]

    async def full(self) -> bool:
        return (await self.catalog.cluster("main")).storage_full


async def test_one_event_when_it_begins_and_one_when_it_is_over(catalog):
    watched = Watched(catalog)
    await watched.look(_said(0, full=False))
    assert await watched.events() == []
    await watched.look(*[_said(1, full=True)] * 5)
    assert await watched.events() == ["storage-full"]
    assert await watched.full()
    await watched.look(*[_said(1, full=False)] * 5)
    assert await watched.events() == ["storage-full", "storage-full is over"]
    assert not await watched.full()
    assert "a statement was refused at the limit of 30.0 MiB" in (await catalog.events())[-2][2]


async def test_a_meeting_between_two_looks_is_seen_all_the_same(catalog):
    watched = Watched(catalog)
    await watched.look(_said(0, full=False), _said(1, full=False), _said(1, full=False))
    assert await watched.events() == ["storage-full", "storage-full is over"]


async def test_a_control_plane_that_starts_again_repeats_nothing(catalog):
    await Watched(catalog).look(_said(1, full=True))
    again = Watched(catalog)
    await again.look(_said(1, full=True))
    assert await again.events() == ["storage-full"]
    last = Watched(catalog)
    await last.look(_said(1, full=False), _said(1, full=False))
    assert await last.events() == ["storage-full", "storage-full is over"]


async def test_the_next_writer_goes_on_with_what_the_last_one_left(catalog):
    watched = Watched(catalog)
    await watched.look(_said(0, full=False), _said(1, full=True))
    assert await catalog.advance_epoch(await catalog.cluster("main"), time_us=1)
    await watched.look(_said(0, full=True, epoch=2))
    assert await watched.events() == ["storage-full"]
    await watched.look(_said(0, full=False, epoch=2), _said(1, full=True, epoch=2))
    assert await watched.events() == ["storage-full", "storage-full is over", "storage-full"]


async def test_nobody_but_the_open_writer_is_believed(catalog):
    watched = Watched(catalog)
    await watched.look(_said(1, full=True, role="replica"), _said(1, full=True, epoch=0))
    assert await watched.events() == []


async def test_the_limit_is_taken_over_and_told_but_never_below_what_is_there(catalog):
    layout = make_layout()
    main = layout.cluster("main")

    async def adopt(megabytes: int) -> tuple[bool, int]:
        spec = replace(main, max_storage_bytes=megabytes * 1024**2)
        changed = await catalog.adopt(layout.with_cluster(spec))
        return changed, (await catalog.cluster("main")).max_pages

    for pg in range(2):
        await catalog.add_group(1, pg, NODES, time_us=1)
    assert (await catalog.events())[-1][2] == (
        "protection group 1 added: room for 20.0 MiB now, the limit is 30.0 MiB"
    )
    version = await catalog.version()
    assert await adopt(50) == (True, 5 * 2560)
    assert await catalog.version() == version + 1, "who watches is told"
    assert (await catalog.events())[-1][1:] == (
        "volume 1",
        "the limit is 50.0 MiB now, it was 30.0 MiB",
    )
    assert await adopt(50) == (False, 5 * 2560)
    assert await adopt(10) == (True, 2 * 2560), "two groups are there"
