"""The volume's writer and reader over six real storage nodes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import VolumeConfig
from engine.errors import QuorumLost, StaleEpoch, Unavailable, VolumeFull
from engine.log.record import PageChange
from engine.net.methods import APPEND
from engine.ports import Channel
from engine.types import PAGE_SIZE
from engine.volume.links import Batch
from tests.support.fleet import FAST, Fleet, OpenedWriter
from tests.support.until import until


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path)
    await fleet.start()
    yield fleet
    await fleet.stop()


class Model:
    """The pages as a writer knows them; commits random changes."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.pages: dict[int, bytes] = {}

    def change(self, count: int = 3, span: int = 40) -> list[PageChange]:
        changes = []
        for page in sorted(self.rng.sample(range(span), count)):
            before = self.pages.get(page)
            image = bytearray(before or bytes(PAGE_SIZE))
            at = self.rng.randrange(PAGE_SIZE - 64)
            image[at : at + 64] = self.rng.randbytes(64)
            changes.append(PageChange(page, before, bytes(image)))
            self.pages[page] = bytes(image)
        return changes

    async def commit(self, writer: OpenedWriter, **size: int) -> int:
        changes = self.change(**size)
        mark, _ = writer.volume.commit(changes, max(self.pages) + 1)
        async with asyncio.timeout(20):
            await writer.volume.wait_durable(mark.lsn)
        return mark.lsn


async def check(writer: OpenedWriter, pages: dict[int, bytes]) -> None:
    lsn = writer.volume.vdl.lsn
    for page, image in sorted(pages.items()):
        [(_, found)] = await writer.reader.read_pages([page], lsn)
        assert found == image, f"page {page} at {lsn}"


async def test_commits_are_durable_and_readable(fleet: Fleet) -> None:
    writer = await fleet.open_writer()
    model = Model()
    for _ in range(50):
        await model.commit(writer)
    await check(writer, model.pages)
    await writer.close()


async def test_recovery_keeps_every_acknowledged_commit(fleet: Fleet) -> None:
    model = Model()
    for _ in range(3):
        writer = await fleet.open_writer()
        await check(writer, model.pages)
        for _ in range(20):
            last = await model.commit(writer)
        assert writer.volume.vdl.lsn == last
        await writer.close()
    writer = await fleet.open_writer()
    assert writer.volume.vdl.lsn == last
    await check(writer, model.pages)
    await writer.close()


async def test_two_nodes_of_one_zone_down_no_commit_waits(fleet: Fleet) -> None:
    writer = await fleet.open_writer()
    model = Model()
    await model.commit(writer)
    await fleet.stop("storage-1", "storage-2")
    for _ in range(20):
        await model.commit(writer)
    await check(writer, model.pages)
    await fleet.start("storage-1", "storage-2")
    for _ in range(20):
        await model.commit(writer)
    await writer.close()


async def test_three_nodes_down_commits_wait_and_resume(fleet: Fleet) -> None:
    writer = await fleet.open_writer()
    model = Model()
    await model.commit(writer)
    settled = dict(model.pages)
    before = writer.volume.vdl.lsn
    await fleet.stop("storage-1", "storage-3", "storage-5")
    mark, _ = writer.volume.commit(model.change(), 40)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await writer.volume.wait_durable(mark.lsn)
    assert writer.volume.vdl.lsn == before
    await check(writer, settled)
    await fleet.start("storage-3")
    async with asyncio.timeout(20):
        await writer.volume.wait_durable(mark.lsn)
    await check(writer, model.pages)
    await writer.close()


async def test_old_writer_is_fenced_and_persists_nothing(fleet: Fleet) -> None:
    old = await fleet.open_writer()
    model = Model()
    await model.commit(old)
    new = await fleet.open_writer()
    appended = {n: fleet.node(n).state.counters["frames"] for n in fleet.nodes}
    mark, _ = old.volume.commit(model.change(), 40)
    with pytest.raises(StaleEpoch):
        async with asyncio.timeout(20):
            await old.volume.wait_durable(mark.lsn)
    assert old.fenced
    assert appended == {n: fleet.node(n).state.counters["frames"] for n in fleet.nodes}
    await old.close()
    await new.close()


async def test_undurable_commits_of_a_dead_writer_never_come_back(fleet: Fleet) -> None:
    writer = await fleet.open_writer()
    model = Model()
    await model.commit(writer)
    kept = dict(model.pages)
    await fleet.stop("storage-1", "storage-3", "storage-4", "storage-5")
    writer.volume.commit(model.change(), 40)  # reaches storage-2 and storage-6 only
    while not all(
        fleet.node(n).state.segment(1, 0).scl > writer.volume.vdl.lsn
        for n in ("storage-2", "storage-6")
    ):
        await asyncio.sleep(0.01)
    await writer.close()
    await fleet.stop("storage-2", "storage-6")
    await fleet.start("storage-1", "storage-3", "storage-4", "storage-5")
    model.pages = dict(kept)
    second = await fleet.open_writer()
    await check(second, kept)
    await model.commit(second)
    await fleet.start("storage-2", "storage-6")  # they hold the annulled record and missed it all
    for _ in range(10):
        await model.commit(second)
    async with asyncio.timeout(20):
        while set(second.volume.scls(0).values()) != {second.volume.vdl.lsn}:
            await asyncio.sleep(0.02)
            await model.commit(second)
    await check(second, model.pages)
    await second.close()
    third = await fleet.open_writer()
    await check(third, model.pages)
    await third.close()


async def test_no_write_quorum_no_opening(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.volume.fencing.ROUNDS_MAX", 2)
    await fleet.stop("storage-1", "storage-2", "storage-3")
    with pytest.raises(QuorumLost, match="storage-1"):
        await fleet.open_writer()


async def test_volume_grows_by_groups(fleet: Fleet) -> None:
    writer = await fleet.open_writer()
    model = Model()
    await writer.volume.reserve(6000)
    assert len(writer.volume.memberships) == 3
    await model.commit(writer, count=200, span=6000)
    await check(writer, model.pages)
    await writer.close()
    writer = await fleet.open_writer()
    await check(writer, model.pages)
    await writer.close()


async def test_a_full_volume_refuses_until_its_maximum_is_another_one(fleet: Fleet) -> None:
    fleet.max_pages = 2560
    writer = await fleet.open_writer()
    await writer.volume.reserve(2560)
    for _ in range(3):
        with pytest.raises(VolumeFull, match="2561 pages wanted, the maximum is 2560"):
            await writer.volume.reserve(2561)
    assert (writer.volume.limit.full, writer.volume.limit.meetings) == (True, 1)
    writer.volume.limit.change(5120)
    await writer.volume.reserve(2561)
    assert len(writer.volume.memberships) == 2
    await writer.close()


async def test_a_catalog_that_knows_a_lower_maximum_is_right(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_args: object) -> None:
        raise VolumeFull("the volume of main is at its maximum of 2560 pages")

    monkeypatch.setattr(fleet, "add_group", refuse)
    writer = await fleet.open_writer()
    with pytest.raises(VolumeFull, match="at its maximum of 2560 pages"):
        await writer.volume.reserve(2561)
    assert writer.volume.limit.full
    await writer.close()


async def test_a_gap_filled_by_gossip_lets_the_waiting_commit_through(tmp_path: Path) -> None:
    """The commit's quorum needs a node that took its frame ahead of a gap and has nothing left to
    acknowledge once gossip has filled it: the writer has to ask."""
    fleet = Fleet(tmp_path, replace(FAST, gossip_s=0.4, gossip_hurry_s=0.4))
    await fleet.start()
    writer = await fleet.open_writer()
    model = Model()
    await model.commit(writer)
    await fleet.stop("storage-1")
    await model.commit(writer)
    await writer.close()
    writer = await fleet.open_writer()  # it has nothing queued for the node that is away
    await fleet.start("storage-1")
    await fleet.stop("storage-2", "storage-3")
    await model.commit(writer)
    await check(writer, model.pages)
    await writer.close()
    await fleet.stop()


class SilentOnce:
    """A channel whose first Append stream hangs without breaking: nothing sent on it arrives."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._hangs = True

    async def call(self, method: Any, request: Any, *, timeout: float) -> Any:
        return await self._channel.call(method, request, timeout=timeout)

    def stream(self, method: Any, request: Any = None) -> Any:
        if method is APPEND and self._hangs:
            self._hangs = False
            return _Hanging()
        return self._channel.stream(method, request)

    async def collect(self, method: Any, stream: Any) -> Any:
        return await self._channel.collect(method, stream)

    async def close(self) -> None:
        await self._channel.close()


class _Hanging:
    def __init__(self) -> None:
        self._closed = asyncio.Event()

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0)

    async def recv(self) -> Any:
        await self._closed.wait()
        raise Unavailable("closed here")

    async def done_sending(self) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        self._closed.set()


async def test_a_stream_that_hangs_without_breaking_is_opened_anew(fleet: Fleet) -> None:
    writer = await fleet.open_writer(VolumeConfig(silence_s=0.2), through=SilentOnce)
    model = Model()
    await model.commit(writer)
    await check(writer, model.pages)
    await writer.close()


async def test_an_idle_writer_learns_that_it_is_over(fleet: Fleet) -> None:
    old = await fleet.open_writer(VolumeConfig(idle_rounds_max=2))
    await Model().commit(old)
    await until(lambda: old.volume._points_sent[0] == old.volume.vdl.lsn)  # nothing left to tell
    new = await fleet.open_writer()
    await until(lambda: bool(old.fenced))
    await old.close()
    await new.close()


def known_vdls(fleet: Fleet) -> list[int]:
    """As each node has heard."""
    nodes = [slot.node for slot in fleet.nodes.values() if slot.node is not None]
    return [volume.points.vdl for node in nodes for volume in node.state.volumes.values()]


async def test_points_that_rest_travel_after_redo_again(fleet: Fleet) -> None:
    writer = await fleet.open_writer(VolumeConfig(idle_points_s=0.01, idle_rounds_max=1_000_000))
    model = Model()
    for _ in range(2):
        await model.commit(writer)
        await until(lambda: set(known_vdls(fleet)) == {writer.volume.vdl.lsn})
        await until(lambda: writer.volume._calm)
    await writer.close()


async def test_who_joins_gets_all_of_an_mtr_that_is_durable_in_part(fleet: Fleet) -> None:
    writer = await fleet.open_writer(VolumeConfig(batches_in_flight_max=1, frame_bytes_max=200))
    seen: list[list[int]] = []

    def note(_batch: Batch) -> None:
        seen.append([batch.first for batch in writer.volume.above_vdl])

    writer.volume.on_batch.append(note)
    await Model().commit(writer, count=12)
    assert len(seen) > 2
    assert all(firsts[0] == 1 for firsts in seen), seen
    assert not writer.volume.above_vdl
    await writer.close()


async def test_commits_that_come_while_a_small_batch_is_under_way_share_the_next(
    fleet: Fleet,
) -> None:
    writer = await fleet.open_writer()
    batches: list[Batch] = []
    writer.volume.on_batch.append(batches.append)
    model = Model()
    first = writer.volume.commit(model.change(), max(model.pages) + 1)[0]
    await asyncio.sleep(0)
    assert [b.last for b in batches] == [first.lsn], "nothing else is under way"
    later = [writer.volume.commit(model.change(), max(model.pages) + 1)[0] for _ in range(5)]
    await asyncio.sleep(0)
    assert len(batches) == 1
    await writer.volume.wait_durable(later[-1].lsn)
    assert [b.last for b in batches] == [first.lsn, later[-1].lsn]
    await writer.close()


async def test_full_batches_do_not_wait_for_one_another_nor_the_end_of_them_for_any(
    fleet: Fleet,
) -> None:
    writer = await fleet.open_writer(VolumeConfig(frame_bytes_max=300))
    batches: list[Batch] = []
    writer.volume.on_batch.append(batches.append)
    model = Model()
    mark = writer.volume.commit(model.change(count=12), max(model.pages) + 1)[0]
    await asyncio.sleep(0)
    assert [b.size >= 300 for b in batches] == [True, True, False]
    assert batches[-1].last == mark.lsn
    await writer.volume.wait_durable(mark.lsn)
    await writer.close()


async def test_recovery_without_a_group_that_was_written_to_is_refused(fleet: Fleet) -> None:
    """The writer before added it after the catalog had made its reply to the next one."""
    first = await fleet.open_writer()
    stale = list(fleet.memberships)
    model = Model()
    await first.volume.reserve(5000)
    last = await model.commit(first, count=200, span=5000)
    with pytest.raises(Unavailable, match="protection group 1"):
        await fleet.open_writer(memberships=stale)
    second = await fleet.open_writer()
    assert second.volume.vdl.lsn == last
    await check(second, model.pages)
    await first.close()
    await second.close()
