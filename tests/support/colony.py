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
    coalesce_busy_rounds=2,
    coalesce_pages_per_batch=3,
    scrub_s=0.3,
    scrub_pass_s=0.3,
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
        self.incarnations: dict[str, str] = {}

    # -- nodes

    async def start(self) -> None:
        for process in self.world.storage:
            self.world.boot(process)
        await self.until(lambda: len(self.up) == len(self.world.storage))
        for process in self.up:
            self._incarnation(process)

    async def _boot(self, process: SimProcess, life: Life, runtime: Runtime) -> None:
        assert isinstance(runtime.disk, SimDisk)
        store = SimPageStore(process.memory, process.image, self.world.rng(f"store {life!r}"), life)
        node = StorageNode(runtime, name=process.name, az=process.az, store=store, config=STORAGE)
        await node.open()
        await runtime.transport.serve(self._address(process.name), node.handlers)
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
            for kept in self.volumes.values()
        ) and all(
            self._whole(kept, membership.pg, process)
            for kept in self.volumes.values()
            for membership in kept.memberships
            for process in self.up
        )

    async def wipe(self, process: SimProcess) -> None:
        """Its disk is another one; each of its segments is to be replaced."""
        assert self.healthy
        self.world.wipe(process)

    def _replace(self, kept: Kept) -> None:
        """Members whose disks are gone are replaced by those that came in their place."""
        for at, membership in enumerate(kept.memberships):
            for process in self.up:
                member = membership.voter(process.name)
                assert member is not None
                new = replace(member, incarnation=process.node.state.incarnation)
                if membership.replacing is None and new != member:
                    kept.memberships[at] = begin(membership, old=member, new=new)
                    kept.unconfirmed |= {(membership.pg, p.name) for p in self.world.storage}

    def _replaced(self, kept: Kept) -> None:
        for at, membership in enumerate(kept.memberships):
            if membership.replacing is None:
                continue
            name = membership.replacing.new.node
            process = self.world.processes[name]
            if process.node is None or (membership.pg, name) in kept.unconfirmed:
                continue
            segment = process.node.state.segment(kept.id, membership.pg)
            if not segment.row.damaged:
                kept.memberships[at] = forward(membership)
                kept.unconfirmed |= {(membership.pg, p.name) for p in self.world.storage}

    # -- the control plane

    async def tend(self) -> None:
        """Tell nodes what they have not heard or could not do yet."""
        for kept in list(self.volumes.values()):
            self._replace(kept)
            for pg, name in sorted(kept.unconfirmed):
                if await self._assign(kept, pg, name):
                    kept.unconfirmed.discard((pg, name))
            self._replaced(kept)
        for (
            process
        ) in self.up:  # who was told late to create something is told again that it is gone
            for key in [s.row.id for s in self.segments(process)]:
                if key.volume not in self.volumes:
                    self.untold.add((key.volume, key.pg, process.name))
        for volume, pg, name in sorted(self.untold):
            gone = pb.SegmentAssignment(
                volume=volume, membership=pb.PgMembership(pg=pg, epoch=1 << 20), drop=True
            )
            if await self._told(name, gone):
                self.untold.discard((volume, pg, name))

    async def _assign(self, kept: Kept, pg: PgNo, name: str) -> bool:
        membership = kept.memberships[pg]
        member = membership.voter(name)
        assert member is not None
        return await self._told(
            name,
            pb.SegmentAssignment(
                volume=kept.id,
                membership=membership_to_pb(membership),
                incarnation=member.incarnation,
                create=True,
                fork=kept.forks.get(pg),
            ),
        )

    async def _told(self, name: str, assignment: pb.SegmentAssignment) -> bool:
        if self.world.processes[name].node is None:
            return False
        request = pb.AssignSegmentsRequest(segments=[assignment])
        try:
            reply = await self._call(name, ASSIGN_SEGMENTS, request)
        except SextetError:
            return False
        return not reply.refused

    async def _call(self, name: str, method: Any, request: Any) -> Any:
        return await self.channels.to(self._address(name)).call(method, request, timeout=2.0)

    def _address(self, name: str) -> str:
        return address(self.world.layout.storage_node(name).port)

    def _group(self, kept: Kept) -> None:
        pg = len(kept.memberships)
        members = tuple(
            Member(p.name, p.az, self._address(p.name), self._incarnation(p))
            for p in self.world.storage
        )
        kept.memberships.append(Membership(pg, 1, members))
        kept.unconfirmed |= {(pg, member.node) for member in members}

    def _incarnation(self, process: SimProcess) -> str:
        """The last that is known: a wiped node may not have come back yet."""
        if process.node is not None:
            self.incarnations[process.name] = process.node.state.incarnation
        return self.incarnations[process.name]

    def _stands(self, kept: Kept) -> bool:
        """Every group stands on a write quorum of segments that miss nothing."""
        return all(
            sum(self._whole(kept, pg, p) for p in self.up) >= WRITE
            for pg in range(len(kept.memberships))
        )

    def _whole(self, kept: Kept, pg: PgNo, process: SimProcess) -> bool:
        volume = process.node.state.volumes.get(kept.id)
        segment = volume.segments.get(pg) if volume is not None else None
        return segment is not None and not segment.row.damaged

    # -- volumes

    async def create(self) -> Kept:
        self.last_id += 1
        kept = self.volumes[self.last_id] = Kept(self.last_id)
        self._group(kept)
        await self.until(lambda: self._stands(kept))
        await self.open(kept)
        return kept

    async def clone(self, parent: Kept, *, back: int = 0) -> Kept | None:
        """A clone of the newest durable commit, or of the one `back` before it; None if it could not be
        made: then nothing is left of it."""
        assert parent.writer is not None
        vdl = parent.writer.volume.vdl
        durable = [lsn for lsn, _ in parent.commits if lsn <= vdl.lsn]
        lsn = durable[-1 - back] if back < len(durable) else vdl.lsn
        if not lsn:
            return None
        mark = CommitMark(lsn, vdl.time_us, vdl.pages)
        parent.held.append(lsn)
        try:
            return await self._clone(parent, mark)
        finally:
            parent.held.remove(lsn)

    async def _clone(self, parent: Kept, mark: CommitMark) -> Kept | None:
        tails = await self._fork_point(parent, mark.lsn)
        if tails is None:
            return None
        self.last_id += 1
        kept = Kept(self.last_id, base=parent.pages(mark.lsn), begun_at=mark, acked=mark.lsn)
        for pg, tail in enumerate(tails):
            self._group(kept)
            kept.forks[pg] = pb.Fork(
                ancestry=[pb.Ancestor(volume=parent.id, lsn=mark.lsn)],
                tail=tail,
                commit=pb.CommitPoint(lsn=mark.lsn, time_us=mark.time_us, pages=mark.pages),
            )
        self.volumes[kept.id] = kept
        for _ in range(10):
            await self.tend()
            if self._stands(kept):
                await self.open(kept)
                return kept
            await asyncio.sleep(0.1)
        await self.delete(kept)
        return None

    async def _fork_point(self, parent: Kept, lsn: LSN) -> list[LSN] | None:
        """Every group's tail, from a read quorum; None if there is none, or a floor has passed."""
        request = pb.ForkPointRequest(volume=parent.id, lsn=lsn)
        for _ in range(10):
            found: dict[PgNo, list[LSN]] = {pg: [] for pg in range(len(parent.memberships))}
            for process in self.up:
                try:
                    reply = await self._call(process.name, FORK_POINT, request)
                except SextetError:
                    continue
                for group in reply.groups:
                    if group.whole:
                        found[group.pg].append(group.tail)
            if all(len(tails) >= READ for tails in found.values()):
                return [max(found[pg]) for pg in sorted(found)]
            await asyncio.sleep(0.1)
        return None

    async def delete(self, kept: Kept) -> None:
        await self.close(kept)
        del self.volumes[kept.id]
        self.untold |= {
            (kept.id, m.pg, p.name) for m in kept.memberships for p in self.world.storage
        }
        await self.tend()

    # -- writers

    async def close(self, kept: Kept) -> None:
        if kept.writer is not None:
            writer, kept.writer = kept.writer, None
            await writer.background.stop()

    async def open(self, kept: Kept) -> None:
        """The writer in office is over; another one recovers."""
        await self.close(kept)
        deadline = self.world.loop.time() + PATIENCE_S
        while True:
            kept.epoch += 1
            try:
                kept.writer = await self._opened(kept)
                break
            except (QuorumLost, Unavailable):
                assert self.world.loop.time() < deadline, f"volume {kept.id} cannot be opened"
                await self.come_back()
                await asyncio.sleep(0.2)
                await self.tend()
        kept.recovered(kept.writer.volume.vdl.lsn)

    async def _opened(self, kept: Kept) -> Writer:
        reply = cpb.OpenVolumeReply(
            volume=kept.id,
            epoch=kept.epoch,
            max_pages=GROUPS_MAX * GROUP_PAGES,
            memberships=[membership_to_pb(m) for m in kept.memberships],
        )
        opened = await open_volume(self.runtime, VOLUME, reply, connect=self.channels.to)
        background = Background()

        async def grow(_pg: PgNo) -> Sequence[Membership]:
            self._group(kept)
            await self.until(lambda: self._stands(kept))
            return kept.memberships

        volume = VolumeWriter(
            self.runtime,
            VOLUME,
            opened,
            connect=self.channels.to,
            background=background,
            grow=grow,
            on_fenced=_never,
        )
        volume.pgmrpl = lambda: min([*kept.held, volume.vdl.lsn])
        volume.start()
        reader = PageReader(
            self.runtime,
            VOLUME,
            volume=kept.id,
            epoch=kept.epoch,
            az="az1",
            memberships=volume.memberships,
            tails=volume.tails,
            scls=volume.scls,
            connect=self.channels.to,
        )
        return Writer(volume, reader, background)

    async def write(self, kept: Kept, pages: Sequence[int]) -> LSN:
        """One commit that changes those pages."""
        assert kept.writer is not None
        size = max(kept.size, max(pages) + 1)
        await kept.writer.volume.reserve(size)
        state = kept.pages(1 << 62)
        changes = []
        for page in pages:
            image = bytearray(state.get(page, bytes(PAGE_SIZE)))
            length = self.rng.choice((8, 200, PAGE_SIZE))
            at = self.rng.randrange(PAGE_SIZE - length + 1)
            image[at : at + length] = self.rng.randbytes(length)
            changes.append(PageChange(page, state.get(page), bytes(image)))
        mark, _ = kept.writer.volume.commit(changes, size)
        kept.commits.append((mark.lsn, {c.page: c.after for c in changes}))
        return mark.lsn

    async def durable(self, kept: Kept, lsn: LSN) -> None:
        assert kept.writer is not None
        volume = kept.writer.volume
        if volume.vdl.lsn < lsn:
            await asyncio.sleep(1.0)
        if volume.vdl.lsn < lsn:  # too few nodes are up, or one waits for its place
            await self.come_back()
            await self.until(lambda: volume.vdl.lsn >= lsn)
        kept.acked = max(kept.acked, lsn)

    # -- what must hold

    async def check(self, kept: Kept) -> None:
        """The volume is what its model is."""
        assert kept.writer is not None
        lsn = kept.writer.volume.vdl.lsn
        kept.held.append(lsn)
        expected = kept.pages(lsn)
        for pg in range(len(kept.writer.volume.memberships)):
            pages = range(pg * GROUP_PAGES, (pg + 1) * GROUP_PAGES)
            async with asyncio.timeout(PATIENCE_S):
                found = await kept.writer.reader.read_pages(pages, lsn)
            for page, (_, image) in zip(pages, found, strict=True):
                where = f"volume {kept.id}, page {page} at {lsn}"
                assert image == expected.get(page, bytes(PAGE_SIZE)), where
        kept.held.remove(lsn)

    async def check_every_copy(self, kept: Kept) -> None:
        """Of a volume that is at rest on nodes that are well."""
        assert kept.writer is not None
        lsn, expected = kept.writer.volume.vdl.lsn, kept.pages(1 << 62)
        for process in self.up:
            for membership in kept.memberships:
                first = membership.pg * group_pages()
                request = pb.ReadPagesRequest(
                    volume=kept.id,
                    epoch=kept.epoch,
                    pg=membership.pg,
                    pages=range(first, first + group_pages()),
                    read_lsn=lsn,
                    pg_lsn=kept.writer.volume.tails.at(membership.pg, lsn),
                )
                reply = await self._call(process.name, READ_PAGES, request)
                for found in reply.pages:
                    image = found.image or bytes(PAGE_SIZE)
                    where = f"{process.name}: volume {kept.id}, page {found.page} at {lsn}"
                    assert image == expected.get(found.page, bytes(PAGE_SIZE)), where

    def check_orphans(self) -> None:
        """Nobody keeps pages of deleted volumes that no clone reads."""
        for process in self.up:
            needed: dict[SegmentId, set[LSN]] = {}
            for segment in self.segments(process):
                for volume, upto in readable(segment.row.ancestry):
                    needed.setdefault(SegmentId(volume, segment.pg), set()).add(upto)
            own = {segment.row.id for segment in self.segments(process)}
            for key, kept in process.memory.versions.items():
                if key in own:
                    continue
                for page, versions in kept.items():
                    newest = {
                        max((v.lsn for v in versions if v.lsn <= upto), default=0)
                        for upto in needed.get(key, ())
                    }
                    extra = {v.lsn for v in versions} - newest
                    assert not extra, f"{process.name}: {key}, page {page}: {sorted(extra)}"

    async def heal(self) -> None:
        """Every fault ends; what follows from that is waited for."""
        await self.come_back()
        deadline = self.world.loop.time() + PATIENCE_S
        while not self.healthy:
            assert self.world.loop.time() < deadline, self._ills()
            await asyncio.sleep(0.2)
            await self.tend()
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
