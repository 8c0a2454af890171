"""Watching from inside what no client is told: recoveries, what was allotted, epochs, the log itself.

It listens where node code tells listeners anyway, changes nothing, and keeps what the checkers need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.sim.checkers import Findings, Violation, commits, epochs, segments
from cluster.sim.checkers.commits import Attempt, FinalLog, Recovery
from cluster.sim.checkers.epochs import Quorum, Sighting
from cluster.sim.checkers.oracle import CommittedLog
from cluster.sim.checkers.segments import Holding
from cluster.sim.world import SimProcess, World
from engine.errors import Corrupt
from engine.instance.writer import Writer
from engine.log.frame import index_frame, record_bytes
from engine.log.header import read_header
from engine.steps import Step
from engine.storage.node import StorageNode
from engine.types import LSN, CommitMark, Epoch, Membership, PgNo, Truncation
from engine.volume.geometry import pg_of
from engine.volume.links import Batch


@dataclass
class Opening:
    """One opening of the volume by one life of an instance, and what it sent."""

    writer: str
    epoch: Epoch
    durable: LSN
    frames: list[bytes] = field(default_factory=list)

    def attempts(self) -> list[Attempt]:
        """Every MTR whose CPL was sent; acknowledged if VDL reached it."""
        refs = sorted((ref for f in self.frames for ref in index_frame(f)), key=lambda r: r.lsn)
        found = []
        first = refs[0].lsn if refs else 0
        for ref in refs:
            if ref.commit is not None:
                told = ref.lsn <= self.durable
                found.append(Attempt(first, ref.lsn, self.epoch, told, self.writer))
                first = ref.lsn + 1
        return found


class Observer:
    """Attach before the world starts."""

    def __init__(self, world: World) -> None:
        self.openings: list[Opening] = []
        self.sightings: list[Sighting] = []
        self.quorums: list[Quorum] = []
        self.recoveries: list[Recovery] = []
        self.truncations: tuple[Truncation, ...] = ()
        """As the newest recovery left them."""
        self.commits = 0
        self.durable: list[CommitMark] = []
        """Commits that a writer's VDL was at, in the order of time."""
        self._world = world
        self._left: dict[str, int] = {}  # how often a node kept nothing of the volume any more
        world.on_writer.append(self._opened)
        world.on_step.append(self._stepped)

    def _opened(self, process: SimProcess, writer: Writer) -> None:
        volume = writer.volume
        found = volume.opened
        own = [t for t in found.truncations if t.epoch == volume.epoch]
        if volume.epoch >= max((r.epoch for r in self.recoveries), default=0):
            self.truncations = found.truncations
        self.recoveries.append(
            Recovery(
                epoch=volume.epoch,
                vdl=found.vdl.lsn,
                truncated=(own[0].low, own[0].high) if own else None,
                commits=self._commits(found.vdl.lsn, found.truncations),
                at=self._world.loop.time(),
            )
        )
        opening = Opening(f"{process.life!r}", volume.epoch, found.vdl.lsn)
        self.openings.append(opening)
        self._tell_vdl(process, found.vdl, volume.epoch)

        def sent(batch: Batch) -> None:
            opening.frames.extend(part.frame for part in batch.frames)

        def durable(mark: CommitMark) -> None:
            self.commits += 1
            opening.durable = mark.lsn
            self.quorums.append(Quorum(self._world.loop.time(), opening.writer, opening.epoch))
            self._tell_vdl(process, mark, opening.epoch)

        volume.on_batch.append(sent)
        volume.on_durable.append(durable)

    def _commits(self, vdl: LSN, truncations: Sequence[Truncation]) -> tuple[LSN, ...]:
        """Of all that was sent until now: what a recovery that ends at `vdl` has kept."""
        found = set()
        for frame in (f for o in self.openings for f in o.frames):
            header = read_header(frame)
            if header.first_lsn > vdl:
                continue
            for ref in index_frame(frame):
                annulled = any(t.annuls(lsn=ref.lsn, epoch=header.epoch) for t in truncations)
                if ref.commit is not None and ref.lsn <= vdl and not annulled:
                    found.add(ref.lsn)
        return tuple(sorted(found))

    def _tell_vdl(self, process: SimProcess, mark: CommitMark, epoch: Epoch) -> None:
        if mark.lsn:
            self.durable.append(mark)
        self._world.trace.emit("vdl", process.name, lsn=mark.lsn, epoch=epoch)

    def _stepped(self, when: str, step: Step, process: SimProcess) -> None:
        node = process.node
        if when == "before" and step is Step.DROP and not any(True for _ in node.state.segments()):
            self._left[process.name] = self._left.get(process.name, 0) + 1
        if (
            when == "after"
            and step in (Step.FENCE, Step.TRUNCATE)
            and isinstance(node, StorageNode)
        ):
            for volume in node.state.volumes.values():
                now = self._world.loop.time()
                incarnation = f"{node.state.incarnation}/{self._left.get(process.name, 0)}"
                self.sightings.append(Sighting(now, process.name, incarnation, volume.epoch))

    # -- afterwards

    @property
    def writers(self) -> tuple[str, ...]:
        """Names of the instances that opened the volume, in the order of their epochs."""
        opened = sorted(self.openings, key=lambda o: o.epoch)
        return tuple(o.writer.partition("#")[0] for o in opened)

    def archived(self) -> LSN:
        """The highest LSN that storage nodes have heard is archived."""
        return max(
            (
                volume.points.archived
                for process in self._world.storage
                if isinstance(process.node, StorageNode)
                for volume in process.node.state.volumes.values()
            ),
            default=0,
        )

    def log(self, findings: Findings | None = None) -> CommittedLog:
        """All that was ever sent, less what recoveries annulled and what was never durable."""
        durable = max((o.durable for o in self.openings), default=0)
        frames = [f for o in self.openings for f in o.frames if read_header(f).first_lsn <= durable]
        whole = CommittedLog.from_frames(frames, self.truncations, findings)
        whole.records = [r for r in whole.records if r.lsn <= durable]
        whole.commits = [c for c in whole.commits if c.lsn <= durable]
        return whole

    def check(self, log: CommittedLog) -> list[Violation]:
        """G1, G2, G3, G4 and G6 over LSNs, epochs and bytes."""
        attempts = [a for opening in self.openings for a in opening.attempts()]
        final = FinalLog(tuple(r.lsn for r in log.records), tuple(c.lsn for c in log.commits))
        recoveries = sorted(self.recoveries, key=lambda r: r.epoch)
        holdings = self.holdings({pg_of(r.page): r.lsn for r in log.records})
        return [
            *commits.check(attempts, recoveries, final, complete=True),
            *epochs.check(self.sightings, self.quorums),
            *segments.check(holdings),
            *segments.check_against_log(holdings, log.records, self._sent(), pg_of),
        ]

    def _sent(self) -> dict[tuple[Epoch, LSN], bytes]:
        """Every record that any writer sent, as its bytes."""
        found = {}
        for frame in dict.fromkeys(f for o in self.openings for f in o.frames):
            epoch = read_header(frame).epoch
            for ref in index_frame(frame):
                found[epoch, ref.lsn] = record_bytes(frame, ref)
        return found

    def holdings(self, tails: Mapping[PgNo, LSN]) -> list[Holding]:
        """What each storage node that is up would give to others. `tails`: each group's last LSN."""
        return [
            holding
            for process in self._world.storage
            if isinstance(process.node, StorageNode)
            for holding in _holdings(process, process.node, tails)
        ]


def _holdings(process: SimProcess, node: StorageNode, tails: Mapping[PgNo, LSN]) -> list[Holding]:
    found = []
    for volume, segment in node.state.segments():
        records: dict[tuple[Epoch, LSN], bytes] = {}
        readable = True
        for ref in segment.frames:
            try:
                frame = node.state.frame_bytes(ref)
            except (Corrupt, FileNotFoundError):
                readable = False
                continue
            if frame is not None:
                for record in index_frame(frame):
                    records[ref.epoch, record.lsn] = record_bytes(frame, record)
        kept = process.memory.versions.get(segment.row.id, {})
        pages = {
            (page, version.lsn): version.image
            for page, versions in kept.items()
            for version in versions
            if version.valid(volume.id)
        }
        rotten = any(not v.valid(volume.id) for versions in kept.values() for v in versions)
        complete = segment.scl >= tails.get(segment.pg, 0) and not segment.row.damaged
        whole = complete and readable and not rotten
        found.append(Holding(process.name, segment.pg, records, pages, whole))
    return found


async def quiet(world: World, within_s: float) -> str:
    """Wait until every replica shows the writer's VDL and every segment is complete to its group's tail.

    Returns "" or what is still missing after `within_s` virtual seconds.
    """
    loop = world.loop
    deadline = loop.time() + within_s
    missing = "nothing was looked at"
    while loop.time() < deadline:
        missing = _missing(world)
        if not missing:
            return ""
        await asyncio.sleep(0.05)
    return missing


def _missing(world: World) -> str:
    process = world.writer()
    writer = process.node.writer if process is not None and process.node is not None else None
    if writer is None:
        return "there is no open writer"
    volume = writer.volume
    if volume.in_flight or writer.pool.tip.lsn != volume.vdl.lsn:
        return f"VDL is {volume.vdl.lsn}, the newest commit is {writer.pool.tip.lsn}"
    for other in world.instances:
        pool = other.node.pool if other.node is not None else None
        if pool is None or pool.visible.lsn != volume.vdl.lsn:
            return f"{other.name} shows {pool.visible.lsn if pool else 'nothing'}, not {volume.vdl.lsn}"
    if world.bucket is not None:
        known = [p.node.upto for p in world.archivers if p.node is not None and p.node.restorable]
        if volume.vdl.lsn not in known:
            return f"archivers can restore up to {known or 'nothing'}, not {volume.vdl.lsn}"
    for membership in volume.memberships.values():
        lacking = _without_segment(world, membership)
        if lacking:
            return lacking
    for storage in world.storage:
        if storage.node is None:
            return f"{storage.name} is down"
        for known, segment in storage.node.state.segments():
            tail = volume.tails.at(segment.pg, volume.vdl.lsn)
            if segment.scl < tail or known.epoch != volume.epoch or segment.row.damaged:
                return f"{storage.name} is at {segment.scl} of group {segment.pg}, not {tail}"
    return ""


def _without_segment(world: World, membership: Membership) -> str:
    """Whose copy of the group is still missing: after every wipe there must be six again."""
    if membership.replacing is not None:
        new = membership.replacing.new.node
        return f"group {membership.pg} still waits for its new member {new}"
    for member in membership.members:
        node = world.processes[member.node].node
        if node is None:
            return f"{member.node} is down"
        for volume in node.state.volumes.values():
            segment = volume.segments.get(membership.pg)
            if segment is not None and segment.row.incarnation == member.incarnation:
                break
        else:
            return f"{member.node} has no copy of group {membership.pg} on the disk it has now"
    return ""
