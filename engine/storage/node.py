"""A storage node: start from disk, serve, work in the background, stop.

Invariants (each is enforced where it is named)
- No ack before the fdatasync that covers it (`appending`), and none after a failed one: the node ends
  (`state.stop`).
- After a fence is answered nothing of a lower epoch gets in (`fencing`).
- Between a fence and its truncation no redo is taken and no page is read (`Volume.settled`).
- Corrupt is not absent: damage in the log marks segments `damaged`, and a damaged segment's silence
  is no denial in recovery (`starting`, `gossip`).
- No read ever lacks a record or returns rot (`reading`, `gc`).
- A wiped node is another incarnation and is given none of its old segments (`assign`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from engine.errors import DiskFull, SextetError
from engine.net.methods import (
    APPEND,
    ASSIGN_SEGMENTS,
    COPY_PAGES,
    FENCE,
    FETCH_FRAMES,
    FORK_POINT,
    GOSSIP,
    READ_PAGES,
    REGISTER,
    STORAGE_STATUS,
    TRUNCATE,
)
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import storage_pb2 as pb
from engine.ports import Handlers, Runtime
from engine.steps import Step
from engine.storage import appending, fencing, forks, gossip, reading, serving
from engine.storage.ancestry import needed_at, released_by
from engine.storage.coalesce import Coalescer
from engine.storage.config import StorageConfig
from engine.storage.creating import Newborn, create_segments
from engine.storage.gc import Collector
from engine.storage.pagestore import PageStore, SegmentRow
from engine.storage.scrub import Scrubber
from engine.storage.segment import Segment
from engine.storage.starting import open_node
from engine.storage.state import NodeState, check_numbers
from engine.storage.volume import Volume
from engine.storage.wal import Wal
from engine.tasks import Background, backoff
from engine.types import Membership, SegmentId
from engine.volume.channels import Channels
from engine.volume.fencing import membership_from_pb, membership_to_pb
from engine.volume.membership import is_joining, supersedes

log = logging.getLogger(__name__)


class StorageNode:
    """One storage node over the four ports and a page store.

    `open`, then serve `handlers`, then `start`; `stop` at the end. The parts of the background can be
    driven by hand instead: `coalescer`, `collector`, `scrubber`, `gossiper`.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        name: str,
        az: str,
        store: PageStore,
        config: StorageConfig | None = None,
        pid: int = 0,
    ) -> None:
        config = config or StorageConfig()
        self.state = NodeState(
            runtime=runtime,
            config=config,
            name=name,
            az=az,
            store=store,
            wal=Wal(runtime.disk, config, runtime.clock, runtime.steps),
            channels=Channels(runtime.transport),
        )
        self.coalescer = Coalescer(self.state)
        self.collector = Collector(self.state)
        self.scrubber = Scrubber(self.state)
        self.gossiper = gossip.Gossiper(self.state)
        self._pid = pid
        self._background = Background(self._failed)

    # -- life

    async def open(self) -> None:
        """Read everything back from disk. Raises ConfigError, Corrupt, DiskFull, DiskFailed."""
        await open_node(self.state)

    def start(self) -> None:
        """Begin the background work."""
        self._background.spawn(self.gossiper.run(), name="gossip")
        self._background.spawn(self.coalescer.run(), name="coalesce")
        self._background.spawn(self.collector.run(), name="gc")
        self._background.spawn(self.scrubber.run(), name="scrub")

    async def stop(self) -> None:
        """End. What is known of the durable points is written down, so that the next recovery has
        less to report; a node that is ended harder only reports more."""
        await self._background.stop()
        state = self.state
        try:
            for volume in list(state.volumes.values()):
                if not state.stopped:
                    await state.durable_scls(volume.segments.values())
                    await state.put_rows(volume, volume.segments.values())
        except SextetError as error:
            log.warning("stopping without a last word to disk: %s", error)
        await state.channels.close()
        await state.store.close()
        state.wal.close()

    def _failed(self, task: str, error: BaseException) -> None:
        self.state.stop(f"{task} failed: {type(error).__name__}: {error}")

    # -- the control plane

    def register_with(self, control: str, *, address: str) -> None:
        """Tell the control plane where this node is, for as long as it takes, in the background."""
        self._background.spawn(self._register(control, address), name="register")

    async def _register(self, control: str, address: str) -> None:
        state = self.state
        request = cpb.RegisterRequest(
            name=state.name,
            kind="storage",
            az=state.az,
            address=address,
            pid=self._pid,
            incarnation=state.incarnation,
        )
        # Ends when it succeeds: a node without its control plane serves what it has.
        for delay in backoff(state.runtime.rng, 0.05, state.config.register_limit_s):
            try:
                reply = await state.channels.to(control).call(
                    REGISTER, request, timeout=state.config.peer_timeout_s
                )
                refused = await self.assign(reply.segments)
            except SextetError as error:
                log.debug("control plane: %s: %s", type(error).__name__, error)
                await asyncio.sleep(delay)
                continue
            for assignment in refused:
                if assignment.HasField("fork") and assignment.incarnation == state.incarnation:
                    continue  # not yet; the control plane asks again
                log.error(
                    "told to keep group %d of volume %d as incarnation %s, which this disk is not",
                    assignment.membership.pg,
                    assignment.volume,
                    assignment.incarnation,
                )
            return

    async def assign(
        self, assignments: Sequence[pb.SegmentAssignment]
    ) -> list[pb.SegmentAssignment]:
        """Create or confirm segments, durably; returns those that this disk cannot answer for.

        Raises ProtocolError, DiskFull.
        """
        wanted = {n: one for n, a in enumerate(assignments) if (one := self._fork_wanted(a))}
        made = await forks.create_forks(self.state, self.coalescer, list(wanted.values()))
        kept = dict(zip(wanted, made, strict=True))
        for number, assignment in enumerate(assignments):
            if number not in kept:
                kept[number] = await self._assign(assignment)
        return [a for number, a in enumerate(assignments) if not kept[number]]

    def _fork_wanted(self, assignment: pb.SegmentAssignment) -> forks.Wanted | None:
        """The clone's segment that this node is told to make now, if it is told that."""
        state, membership = self.state, membership_from_pb(assignment.membership)
        volume = state.volumes.get(assignment.volume)
        if (
            (volume is not None and membership.pg in volume.segments)
            or not (assignment.create and assignment.HasField("fork"))
            or assignment.drop
            or assignment.incarnation != state.incarnation
            or is_joining(membership, state.name)
        ):
            return None
        numbers = {"volume": assignment.volume, "epoch": membership.epoch}
        check_numbers("assignment", numbers)
        fork = forks.fork_from_pb(assignment.fork)
        return forks.Wanted(assignment.volume, membership, fork)

    async def _assign(self, assignment: pb.SegmentAssignment) -> bool:
        state = self.state
        check_numbers("assignment", {"volume": assignment.volume})
        membership = membership_from_pb(assignment.membership)
        check_numbers("assignment", {"epoch": membership.epoch})
        volume = state.volumes.get(assignment.volume)
        segment = volume.segments.get(membership.pg) if volume is not None else None
        if assignment.drop:
            if segment is not None and volume is not None:
                await self._drop(volume, segment, membership)
            return True
        if segment is None or volume is None:
            if not assignment.create or assignment.incarnation != state.incarnation:
                return False
            key = SegmentId(assignment.volume, membership.pg)
            joining = is_joining(membership, state.name)
            row = SegmentRow(key, state.incarnation, membership, damaged=joining)
            await create_segments(state, [Newborn(row)])
            state.stirred.set()
            return True
        if segment.row.incarnation != assignment.incarnation:
            return False
        if supersedes(membership, segment.row.membership):
            await self._change_members(volume, segment, membership)
        return True

    async def _change_members(
        self, volume: Volume, segment: Segment, membership: Membership
    ) -> None:
        """In memory first, so that nothing is taken from who knows older members; then on disk; then it
        is spoken of.

        Who is to replace a member begins anew with every change in which it does so: it may have missed
        everything since it was given up the last time.
        """
        state = self.state
        before = segment.row
        anew = membership.epoch > before.membership.epoch and is_joining(membership, state.name)
        segment.row = replace(before, membership=membership, damaged=before.damaged or anew)
        segment.caught_up_with.clear()
        state.runtime.steps.before(Step.MEMBERS)
        try:
            await state.put_rows(volume, [segment])
        except DiskFull:
            if segment.row.membership == membership:
                segment.row = replace(segment.row, membership=before.membership)
            raise
        segment.members_since = max(segment.members_since, membership.epoch)
        state.stirred.set()
        state.runtime.steps.after(Step.MEMBERS)

    async def _drop(self, volume: Volume, segment: Segment, membership: Membership) -> None:
        """The group does without this node's segment, unless this is old news. A group without members
        is one of a volume that is deleted. What clones need of its pages stays."""
        state = self.state
        known = segment.row.membership
        if membership.epoch < known.epoch or membership.voter(state.name) is not None:
            return
        async with state.rows:
            if segment.dropped:
                return
            segment.dropped = True
            del volume.segments[segment.pg]
            keep = needed_at(state, segment.row.id)
            trims = released_by(state, segment)
            state.runtime.steps.before(Step.DROP)
            await state.guarded(state.store.drop_segment(segment.row.id, keep=keep, trims=trims))
            state.runtime.steps.after(Step.DROP)
        if membership.members:
            log.info("group %d of volume %d is kept by others now", segment.pg, volume.id)
            return
        log.info("group %d of volume %d is deleted", segment.pg, volume.id)
        if not volume.segments and state.volumes.get(volume.id) is volume:
            del state.volumes[volume.id]
            await state.forget_truncations(volume)

    def _newer(self, told: Sequence[pb.SegmentAssignment]) -> list[pb.PgMembership]:
        """Of the groups that this node was told of, those whose members it knows better."""
        found = []
        for assignment in told:
            volume = self.state.volumes.get(assignment.volume)
            segment = volume.segments.get(assignment.membership.pg) if volume is not None else None
            if segment is not None and segment.row.membership.epoch > assignment.membership.epoch:
                found.append(membership_to_pb(segment.row.membership))
        return found

    # -- RPCs

    @property
    def handlers(self) -> Handlers:
        state = self.state

        async def append(stream: appending.AppendStream) -> None:
            await appending.serve_append(state, stream)

        async def read_pages(request: pb.ReadPagesRequest) -> pb.ReadPagesReply:
            return await reading.read_pages(state, request)

        async def fence(request: pb.FenceRequest) -> pb.FenceReply:
            return await fencing.fence(state, request)

        async def truncate(request: pb.TruncateRequest) -> pb.TruncateReply:
            return await fencing.truncate(state, request)

        async def serve_gossip(request: pb.GossipRequest) -> pb.GossipReply:
            return await gossip.serve_gossip(state, request)

        async def assign(request: pb.AssignSegmentsRequest) -> pb.AssignSegmentsReply:
            refused = await self.assign(request.segments)
            return pb.AssignSegmentsReply(refused=refused, newer=self._newer(request.segments))

        async def fork_point(request: pb.ForkPointRequest) -> pb.ForkPointReply:
            return await forks.fork_point(state, request)

        async def fetch(request: pb.FetchFramesRequest, stream: serving.FramesOut) -> None:
            await serving.fetch_frames(state, request, stream)

        async def copy(request: pb.CopyPagesRequest, stream: serving.PagesOut) -> None:
            await serving.copy_pages(state, request, stream)

        return {
            APPEND: append,
            READ_PAGES: read_pages,
            FENCE: fence,
            TRUNCATE: truncate,
            FETCH_FRAMES: fetch,
            COPY_PAGES: copy,
            GOSSIP: serve_gossip,
            ASSIGN_SEGMENTS: assign,
            STORAGE_STATUS: self._status,
            FORK_POINT: fork_point,
        }

    async def _status(self, request: pb.StorageStatusRequest) -> pb.StorageStatusReply:
        state = self.state
        reply = pb.StorageStatusReply(
            node=state.name,
            az=state.az,
            pid=self._pid,
            state=self._condition(),
            incarnation=state.incarnation,
            wal_bytes=state.wal.bytes_kept(),
            syncing_us=int(state.wal.syncing_s * 1e6),
        )
        kept = {} if request.brief else await state.store.counts()
        shared = {} if request.brief else await self._shared_pages()
        for volume, segment in state.segments():
            versions, own = kept.get(segment.row.id, (0, 0))
            reply.segments.add(
                volume=volume.id,
                pg=segment.pg,
                scl=segment.scl,
                epoch=volume.epoch,
                applied=segment.applied,
                hot_from=segment.hot_from,
                pages=versions,
                pending_frames=segment.chain.pending,
                damaged=segment.row.damaged,
                membership_epoch=segment.members_since,
                incarnation=segment.row.incarnation,
                own_pages=own,
                shared_pages=shared.get(segment.row.id, 0),
            )
        for name, value in sorted({**state.counters, **state.wal.counters}.items()):
            reply.counters[name] = value
        return reply

    async def _shared_pages(self) -> dict[SegmentId, int]:
        """Of the clones among the segments."""
        store = self.state.store
        rows = [segment.row for _, segment in self.state.segments() if segment.row.ancestry]
        return {row.id: await store.shared_pages(row) for row in rows}

    def _condition(self) -> str:
        if self.state.stopped:
            return f"fenced: {self.state.stopped}"
        lost = [
            loss.text(segment.pg)
            for _, segment in self.state.segments()
            for loss in gossip.lost_for_good(self.state, segment)
        ]
        if lost:
            more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
            return f"lost {lost[0]}{more}"
        return "disk full" if self.state.full else "up"
