"""Volumes, and clones of them, over six simulated storage nodes; the caller is the control plane.

The nodes are real, on the simulator's loop, disks and network. Writers are real too, without an instance
around them. Every volume has a model: all its pages after each commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from cluster.local.layout import address
from cluster.sim.disk import SimDisk
from cluster.sim.pagestore import SimPageStore, rot_version
from cluster.sim.process import Life
from cluster.sim.world import Shape, SimClock, SimProcess, World
from engine.config import VolumeConfig
from engine.errors import QuorumLost, SextetError, Unavailable
from engine.log.record import PageChange
from engine.net.disk import NoDisk
from engine.net.methods import ASSIGN_SEGMENTS, FORK_POINT, READ_PAGES
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import storage_pb2 as pb
from engine.ports import Disk, Runtime, Transport
from engine.steps import Step
from engine.storage.config import StorageConfig
from engine.storage.node import StorageNode
from engine.storage.pagestore import readable
from engine.storage.segment import Segment
from engine.tasks import Background
from engine.types import LSN, PAGE_SIZE, CommitMark, Member, Membership, PgNo, SegmentId, VolumeId
from engine.volume.channels import Channels
from engine.volume.fencing import membership_to_pb, open_volume
from engine.volume.geometry import group_pages
from engine.volume.membership import begin, forward
from engine.volume.quorum import READ, WRITE
from engine.volume.reader import PageReader
from engine.volume.writer import VolumeWriter

Pages = dict[int, bytes]

GROUP_PAGES = 8
GROUPS_MAX = 3
STORAGE = StorageConfig(
    wal_file_bytes=8 * 1024,
    frame_cache_bytes=8 * 1024,
    gossip_s=0.1,
    gossip_hurry_s=0.03,
    coalesce_s=0.1,
    coalesce_bytes=4 * 1024,
    coalesce_rounds=2,
    coalesce_pages_per_batch=3,
    scrub_s=0.3,
    peer_timeout_s=1.0,
)
VOLUME = VolumeConfig(
    backoff_first_s=0.01,
    backoff_limit_s=0.1,
    call_timeout_s=1.0,
    fence_grace_s=0.02,
    idle_points_s=0.05,
    frame_bytes_max=8 * 1024,
)
PATIENCE_S = 60.0


@dataclass
class Writer:
    volume: VolumeWriter
    reader: PageReader
    background: Background


@dataclass
class Kept:
    """A volume, as its catalog and its clients know it."""

    id: VolumeId
    memberships: list[Membership] = field(default_factory=list)
    forks: dict[PgNo, pb.Fork] = field(default_factory=dict)
    unconfirmed: set[tuple[PgNo, str]] = field(default_factory=set)
    epoch: int = 0
    writer: Writer | None = None
    base: Pages = field(default_factory=dict)
    """What it began with."""
    begun_at: CommitMark = field(default_factory=lambda: CommitMark(0, 0, 0))
    commits: list[tuple[LSN, Pages]] = field(default_factory=list)
    acked: LSN = 0
    held: list[LSN] = field(default_factory=list)
    """Read points that stay."""

    def pages(self, upto: LSN) -> Pages:
        found = dict(self.base)
        for lsn, changed in self.commits:
            if lsn <= upto:
                found |= changed
        return found

    @property
    def size(self) -> int:
        """In pages."""
        return max(self.pages(1 << 62), default=-1) + 1

    def recovered(self, vdl: LSN) -> None:
        assert vdl >= self.acked, f"volume {self.id}: VDL {vdl} after {self.acked} was acknowledged"
        assert vdl in {self.begun_at.lsn, *(lsn for lsn, _ in self.commits)}, f"{vdl} is no commit"
        self.commits = [c for c in self.commits if c[0] <= vdl]
        self.acked = vdl


class Colony:
    def __init__(self, seed: int) -> None:
        self.world = World(seed, Shape(replicas=0, group_pages=GROUP_PAGES, storage=STORAGE))
        self.world._boots["storage"] = self._boot
        self.rng = self.world.rng("colony")
        host = self.world.client_host("colony")
        self.channels = Channels(cast(Transport, host))
        self.runtime = Runtime(
            clock=SimClock(self.world.loop, self.world.control),
            disk=cast(Disk, NoDisk()),
            transport=cast(Transport, host),
            rng=self.world.rng("writers"),
            stop_node=_never,
        )
        self.volumes: dict[VolumeId, Kept] = {}
        self.untold: set[tuple[VolumeId, PgNo, str]] = set()
        """Segments of deleted volumes, and nodes that have not heard of it."""
        self.last_id = 0

    # -- nodes

    async def start(self) -> None:
        for process in self.world.storage:
            self.world.boot(process)
        await self.until(lambda: len(self.up) == len(self.world.storage))

    async def _boot(self, process: SimProcess, life: Life, runtime: Runtime) -> None:
        assert isinstance(runtime.disk, SimDisk)
        store = SimPageStore(process.memory, process.image, self.world.rng(f"store {life!r}"), life)
        node = StorageNode(runtime, name=process.name, az=process.az, store=store, config=STORAGE)
        await node.open()
        port = self.world.layout.storage_node(process.name).port
        await runtime.transport.serve(address(port), node.handlers)
        process.node = node
        node.start()

    @property
    def up(self) -> list[SimProcess]:
        return [p for p in self.world.storage if p.up and p.node is not None]

    def segments(self, process: SimProcess) -> Iterator[Segment]:
        for _, segment in process.node.state.segments():
            yield segment

    async def kill(self, process: SimProcess, *, power: bool, away: bool) -> None:
        process.held_down = away
        self.world.kill(process, power=power)

    async def come_back(self) -> None:
        for process in self.world.storage:
            process.held_down = False
            self.world.boot(process)

    def crash_at(self, step: Step, when: str, *, power: bool) -> None:
        """The next node that takes the step dies there."""

        def on_step(then: str, taken: Step, process: SimProcess) -> None:
            if (then, taken) == (when, step) and on_step in self.world.on_step:
                self.world.on_step.remove(on_step)
                self.world.kill(process, power=power)

        self.world.on_step.append(on_step)

    def rot(self, process: SimProcess) -> None:
        rot_version(process.memory, process.image, self.rng)

    @property
    def healthy(self) -> bool:
        """Every segment of every volume is where it belongs and misses nothing."""
        if len(self.up) < len(self.world.storage) or self.untold:
            return False
        return not any(
            kept.unconfirmed or any(m.replacing for m in kept.memberships)
            # A damaged segment waits until its writer has heard where it stands.
            for kept in self.volumes.values():
                await self.write(kept, [0])

    def _ills(self) -> str:
        damaged = {(p.name, s.row.id) for p in self.up for s in self.segments(p) if s.row.damaged}
        missing = {k.id: sorted(k.unconfirmed) for k in self.volumes.values() if k.unconfirmed}
        return f"up: {len(self.up)}, damaged: {damaged}, missing: {missing}, told: {self.untold}"

    async def until(self, true: Any) -> None:
        deadline = self.world.loop.time() + PATIENCE_S
        while not true():
            assert self.world.loop.time() < deadline, "not in time"
            await self.tend()
            await asyncio.sleep(0.05)

    def run(self, coro: Any) -> Any:
        return self.world.loop.run_until_complete(coro)

    def end(self) -> None:
        async def close_all() -> None:
            for kept in self.volumes.values():
                await self.close(kept)
            await self.channels.close()

        try:
            self.run(close_all())
        finally:
            self.world.close()


def _never(reason: str) -> None:
    raise AssertionError(f"a writer in office is over: {reason}")


__all__ = ["Colony", "Kept"]
