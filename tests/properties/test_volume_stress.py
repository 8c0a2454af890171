"""Random kills of storage nodes and writers against a model of what was acknowledged.

Six real storage nodes with real files and gRPC, in one process, with gossip, coalescing and garbage
collection at work; above them writers that commit random pages, die at any moment (in the middle of
recovery too, or without knowing that they are over) and are followed by another one. A node killed
loses any part of what no fdatasync covered.

After each recovery: every acknowledged commit is there (G1); what is there is a prefix of the commits
that were made, each whole or not at all (G2, G6); every page reads as the model has it. A writer that
was fenced off acknowledges nothing (G3). Old read points that are pinned stay readable (G5). Once all
nodes are up a commit becomes durable (G7).

The seed is in the test's name; threads and sockets make a run not exactly repeatable.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.config import VolumeConfig
from engine.errors import QuorumLost, SextetError, StaleEpoch, Unavailable
from engine.log.record import PageChange
from engine.storage.config import StorageConfig
from engine.types import PAGE_SIZE, PAGES_PER_PG
from tests.support.fleet import NODES, Fleet, OpenedWriter, PowerCutDisk

SEEDS = {"nightly": 60}.get(os.environ.get("SEXTET_HYPOTHESIS", "dev"), 5)
STEPS = 60
HEAL_S = 30.0

STORAGE = StorageConfig(
    wal_file_bytes=128 * 1024,
    frame_cache_bytes=64 * 1024,
    gossip_s=0.05,
    gossip_hurry_s=0.02,
    coalesce_s=0.05,
    coalesce_bytes=16 * 1024,
    coalesce_rounds=2,
    coalesce_busy_rounds=2,
    scrub_s=0.1,
    scrub_pass_s=0.1,
)
VOLUME = VolumeConfig(
    backoff_first_s=0.01,
    backoff_limit_s=0.1,
    call_timeout_s=2.0,
    fence_grace_s=0.02,
    idle_points_s=0.03,
    link_queue_bytes_max=128 * 1024,
    frame_bytes_max=16 * 1024,  # MTRs in several batches
)

Pages = dict[int, bytes]


@dataclass
class Model:
    """The one history of commits, in LSN order, and what was acknowledged of it."""

    commits: list[tuple[int, Pages]] = field(default_factory=list)
    acked: int = 0
    broken: list[str] = field(default_factory=list)
    """What no exception could report, because nobody was waiting."""

    def pages(self, upto: int) -> Pages:
        found: Pages = {}
        for lsn, changed in self.commits:
            if lsn <= upto:
                found |= changed
        return found

    def recovered(self, vdl: int) -> None:
        assert vdl >= self.acked, f"VDL {vdl} after {self.acked} was acknowledged (G1)"
        lsns = [0, *(lsn for lsn, _ in self.commits)]
        assert vdl in lsns, f"VDL {vdl} is no commit of {lsns[-20:]} (G6)"
        self.commits = [c for c in self.commits if c[0] <= vdl]
        self.acked = vdl

    def acknowledged(self, lsn: int) -> None:
        """A client was told; from now on it must never be gone."""
        if all(lsn != made for made, _ in self.commits):
            self.broken.append(f"commit {lsn} was acknowledged and is not in the history (G1, G3)")
        self.acked = max(self.acked, lsn)


class Stress:
    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.rng = random.Random(seed)
        self.model = Model()
        self.writer: OpenedWriter
        self.zombies: list[OpenedWriter] = []
        self.made: list[OpenedWriter] = []
        self.waiting: set[asyncio.Task[None]] = set()
        self.pins: list[int] = []
        self.span = 1

    # -- the writer

    def numbers(self, count: int, span: int = 0) -> list[int]:
        groups = range(span or self.span)
        some = [pg * PAGES_PER_PG + page for pg in groups for page in range(30)]
        return sorted(self.rng.sample(some, min(count, len(some))))

    def change(self, state: Pages, count: int, span: int = 0) -> list[PageChange]:
        changes = []
        for page in self.numbers(count, span):
            image = bytearray(state.get(page, bytes(PAGE_SIZE)))
            size = self.rng.choice((8, 64, 2000))
            at = self.rng.randrange(PAGE_SIZE - size)
            image[at : at + size] = self.rng.randbytes(size)
            changes.append(PageChange(page, state.get(page), bytes(image)))
        return changes

    def commit(self, count: int) -> int:
        state = self.model.pages(self.writer.volume._next_lsn)
        changes = self.change(state, count)
        mark, _ = self.writer.volume.commit(changes, self.span * PAGES_PER_PG)
        self.model.commits.append((mark.lsn, {c.page: c.after for c in changes}))
        self.watch(self.writer, mark.lsn)
        return mark.lsn

    def commit_as_zombie(self) -> None:
        """A writer that does not know that it is over goes on as if nothing had happened."""
        zombie = self.rng.choice(self.zombies)
        mark, _ = zombie.volume.commit(self.change({}, 2, span=1), PAGES_PER_PG)
        self.watch(zombie, mark.lsn)

    def watch(self, writer: OpenedWriter, lsn: int) -> None:
        async def wait() -> None:
            with contextlib.suppress(StaleEpoch):
                await writer.volume.wait_durable(lsn)
                self.model.acknowledged(lsn)

        task = asyncio.get_running_loop().create_task(wait())
        self.waiting.add(task)
        task.add_done_callback(self.waiting.discard)

    async def grow(self) -> None:
        if self.span < 3 and len(self.fleet.up) >= 4:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self.writer.volume.reserve((self.span + 1) * PAGES_PER_PG)
                    self.span += 1

    async def recover(self) -> None:
        """Some recoveries die in the middle; one gets through, with a write quorum at least."""
        self.release()
        while self.rng.random() < 0.5:
            opening = asyncio.ensure_future(self.fleet.open_writer(VOLUME))
            await asyncio.wait({opening}, timeout=self.rng.random() ** 2 * 0.15)
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, SextetError):
                self.opened(await opening)
            if self.rng.random() < 0.5:
                await self.lose_or_return()
        async with asyncio.timeout(HEAL_S):
            await self.recover_for_good()
        await self.check()

    async def recover_for_good(self) -> None:
        while True:
            while len(self.fleet.up) < 4:
                await self.return_one()
            try:
                self.opened(await self.fleet.open_writer(VOLUME))
                return
            except QuorumLost:
                await self.return_one()
            except Unavailable:
                pass  # a group was added meanwhile

    def opened(self, writer: OpenedWriter) -> None:
        self.writer = writer
        self.made.append(writer)
        self.pins.clear()
        writer.volume.pgmrpl = lambda: min(self.pins, default=writer.volume.vdl.lsn)
        self.model.recovered(writer.volume.vdl.lsn)

    async def next_writer(self) -> None:
        old = self.writer
        if self.rng.random() < 0.6:
            await self.lose_the_best()
        if self.rng.random() < 0.4:
            self.zombies.append(old)
        else:
            await old.close()
        await self.recover()

    # -- storage nodes

    async def lose(self) -> None:
        most = 3 if self.rng.random() < 0.2 else 2
        if len(NODES) - len(self.fleet.up) < most:
            victim = self.rng.choice(self.fleet.up)
            self.release()  # a goodbye to disk would wait for it
            await (self.fleet.kill if self.rng.random() < 0.8 else self.fleet.stop)(victim)

    def hold(self) -> None:
        """Some disks stand still: their nodes take redo in and acknowledge none of it."""
        up = self.fleet.up
        for name in self.rng.sample(up, min(len(up), self.rng.randint(1, 4))):
            self.disk(name).flowing.clear()

    def disk(self, name: str) -> PowerCutDisk:
        disk = self.fleet.nodes[name].runtime.disk
        assert isinstance(disk, PowerCutDisk)
        return disk

    def release(self) -> None:
        for name in NODES:
            self.disk(name).flowing.set()

    async def lose_the_best(self) -> None:
        """Power fails where disks stand still, and then the nodes that have most are lost: whatever
        rested on those alone is gone."""
        held = [name for name in self.fleet.up if not self.disk(name).flowing.is_set()]
        await self.fleet.kill(*held)
        if held:  # no name means all of them
            await self.fleet.start(*held)
        up = self.fleet.up
        self.rng.shuffle(up)
        up.sort(key=lambda name: -self.fleet.node(name).state.segment(1, 0).durable_scl)
        await self.fleet.kill(*up[: max(0, 2 - (len(NODES) - len(up)))])

    async def return_one(self) -> None:
        away = [name for name in NODES if name not in self.fleet.up]
        if away:
            await self.fleet.start(self.rng.choice(away))

    async def lose_or_return(self) -> None:
        await (self.lose if self.rng.random() < 0.5 else self.return_one)()

    # -- looking

    async def read(self, pages: list[int], lsn: int) -> None:
        expected = self.model.pages(lsn)
        for page in pages:
            async with asyncio.timeout(HEAL_S):
                [(_, image)] = await self.writer.reader.read_pages([page], lsn)
            assert image == expected.get(page, bytes(PAGE_SIZE)), f"page {page} at {lsn}"

    async def check(self) -> None:
        """Every page as of VDL; needs one complete segment of each group."""
        vdl = self.writer.volume.vdl.lsn
        self.pins.append(vdl)
        await self.read(sorted(self.model.pages(vdl)), vdl)
        self.pins.remove(vdl)

    async def old_read_point(self) -> None:
        if self.pins and self.rng.random() < 0.5:
            self.release()
            lsn = self.rng.choice(self.pins)
            await self.read(self.numbers(3), lsn)
            if self.rng.random() < 0.3:
                self.pins.remove(lsn)
        else:
            self.pins.append(self.writer.volume.vdl.lsn)

    async def settle(self) -> None:
        """All nodes up: what is not durable becomes so."""
        self.release()
        for name in NODES:
            if name not in self.fleet.up:
                await self.fleet.start(name)
        last = self.commit(2)
        async with asyncio.timeout(HEAL_S):
            await self.writer.volume.wait_durable(last)
        self.model.acknowledged(last)

    # -- all of it

    async def step(self) -> None:
        roll = self.rng.random()
        if roll < 0.45:
            for _ in range(self.rng.randint(1, 6)):
                self.commit(self.rng.choice((1, 2, 5, 40)))
        elif roll < 0.60:
            await asyncio.sleep(self.rng.random() * 0.05)
        elif roll < 0.72:
            await self.lose_or_return()
        elif roll < 0.77:
            self.hold()
        elif roll < 0.80:
            self.release()
        elif roll < 0.86:
            await self.next_writer()
        elif roll < 0.89:
            await self.grow()
        elif roll < 0.93 and self.zombies:
            self.commit_as_zombie()
        else:
            await self.old_read_point()
        if roll < 0.3:
            await asyncio.sleep(0)
        assert not self.writer.fenced, "the writer in office was fenced off"
        assert not self.model.broken, self.model.broken

    async def run(self, steps: int) -> None:
        await self.fleet.start()
        self.opened(await self.fleet.open_writer(VOLUME))
        try:
            for _ in range(steps):
                await self.step()
            await self.settle()
            await self.check()
            await self.writer.close()
            await self.recover()
            await self.settle()
            assert not self.model.broken, self.model.broken
        finally:
            self.release()
            for task in list(self.waiting):
                task.cancel()
            await asyncio.gather(*self.waiting, return_exceptions=True)
            for writer in self.made:
                await writer.close()
            await self.fleet.stop()


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_acknowledged_commits_outlive_every_kill(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.volume.fencing.ROUNDS_MAX", 8)
    fleet = Fleet(tmp_path, STORAGE, seed=seed, disk=PowerCutDisk)
    await Stress(fleet, seed).run(STEPS)
