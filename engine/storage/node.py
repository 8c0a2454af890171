"""A storage node: start from disk, serve, work in the background, stop.

Invariants (each is enforced where it is named)
- No ack before fdatasync (`appending`), and none after a failed one: the node ends (`state.durable`).
- After a fence is answered nothing of a lower epoch gets in (`state.take_in` and its callers).
- Between a fence and its truncation nothing is served (`state.settled`).
- Corrupt is not absent: damage in the middle of the log marks segments `damaged`, and a damaged
  segment's silence is no denial in recovery (`_replay`, `gossip`, `fencing.truncate`).
- A wiped node is another incarnation and is given none of its old segments (`assign`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from engine.errors import SextetError
from engine.net.methods import (
    APPEND,
    ASSIGN_SEGMENTS,
    COPY_PAGES,
    FENCE,
    FETCH_FRAMES,
    GOSSIP,
    READ_PAGES,
    REGISTER,
    STORAGE_STATUS,
    TRUNCATE,
)
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import storage_pb2 as pb
from engine.ports import Handlers, Runtime
from engine.storage import appending, fencing, gossip, reading, serving
from engine.storage.coalesce import Coalescer
from engine.storage.config import StorageConfig
from engine.storage.pagestore import PageStore, SegmentRow
from engine.storage.scrub import Scrubber
from engine.storage.segment import Segment, trimmed
from engine.storage.state import NodeState
from engine.storage.wal import Damage, Found, Wal
from engine.tasks import Background, backoff
from engine.types import SegmentId
from engine.volume.channels import Channels
from engine.volume.fencing import membership_from_pb

log = logging.getLogger(__name__)


class StorageNode:
    """One storage node over the four ports and a page store."""

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
            wal=Wal(runtime.disk, config),
            channels=Channels(runtime.transport),
        )
        self.coalescer = Coalescer(self.state)
        self.scrubber = Scrubber(self.state)
        self.gossiper = gossip.Gossiper(self.state)
        self._pid = pid
        self._background = Background(self._failed)

    # -- life

    async def open(self) -> None:
        """Read everything back from disk. Raises ConfigError, Corrupt, DiskFailed."""
        state = self.state
        fresh = f"{state.runtime.rng.getrandbits(64):016x}"
        state.incarnation = await state.store.open(name=state.name, incarnation=fresh)
        state.truncations = await state.store.truncations()
        for row in await state.store.segments():
            state.segments[row.id] = Segment(row)
        await self._replay()

    async def _replay(self) -> None:
        """Put the log's frames back into the segments; mark what damage may have hit."""
        state = self.state
        damaged: set[SegmentId] = set()
        for found in state.wal.replay():
            match found:
                case Found(location, header, frame):
                    segment = state.segments.get(SegmentId(header.volume, header.pg))
                    kept = trimmed(frame, header, state.truncations.get(header.volume, ()))
                    if segment is not None and kept is not None:
                        segment.restore(kept, location)
                case Damage(file, offset, header):
                    log.error("the log is damaged in file %d at %d", file, offset)
                    state.counters["scrub_found"] += 1
                    hit = [SegmentId(header.volume, header.pg)] if header else state.segments
                    damaged.update(hit)
        marked = [state.segments[key] for key in sorted(damaged) if key in state.segments]
        for segment in marked:
            segment.row = replace(segment.row, damaged=True)
        if marked:
            await state.put_rows(marked)

    def start(self) -> None:
        """Begin the background work."""
        self._background.spawn(self.gossiper.run(), name="gossip")
        self._background.spawn(self.coalescer.run(), name="coalesce")
        self._background.spawn(self.scrubber.run(), name="scrub")

    async def stop(self) -> None:
        await self._background.stop()
        await self.state.channels.close()
        await self.state.store.close()
        self.state.wal.close()

    def _failed(self, task: str, error: BaseException) -> None:
        self.state.runtime.stop_node(f"{task} failed: {type(error).__name__}: {error}")

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
        for delay in backoff(state.runtime.rng, 0.05, state.config.register_limit_s):
            try:
                reply = await state.channels.to(control).call(REGISTER, request, timeout=5.0)
            except SextetError as error:
                log.debug("control plane: %s: %s", type(error).__name__, error)
                await asyncio.sleep(delay)
                continue
            refused = await self.assign(reply.segments)
            for assignment in refused:
                log.error("told to keep what this disk does not have: %s", assignment)
            return

    async def assign(
        self, assignments: Sequence[pb.SegmentAssignment]
    ) -> list[pb.SegmentAssignment]:
        """Create or confirm segments, durably; returns those that this disk cannot answer for."""
        state = self.state
        refused = []
        changed = []
        for assignment in assignments:
            membership = membership_from_pb(assignment.membership)
            key = SegmentId(assignment.volume, membership.pg)
            segment = state.segments.get(key)
            if (
                segment is None
                and assignment.create
                and assignment.incarnation == state.incarnation
            ):
                row = SegmentRow(
                    key, state.incarnation, membership, epoch=state.volume_epoch(key.volume)
                )
                segment = state.segments[key] = Segment(row)
                changed.append(segment)
            elif segment is None or segment.row.incarnation != assignment.incarnation:
                refused.append(assignment)
            elif membership.epoch > segment.row.membership.epoch:
                segment.row = replace(segment.row, membership=membership)
                changed.append(segment)
        if changed:
            await state.put_rows(changed)
        return refused

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
            return pb.AssignSegmentsReply(refused=await self.assign(request.segments))

        async def fetch(request: pb.FetchFramesRequest, stream: object) -> None:
            await serving.fetch_frames(state, request, stream)  # type: ignore[arg-type]

        async def copy(request: pb.CopyPagesRequest, stream: object) -> None:
            await serving.copy_pages(state, request, stream)  # type: ignore[arg-type]

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
        }

    async def _status(self, _request: pb.StorageStatusRequest) -> pb.StorageStatusReply:
        state = self.state
        reply = pb.StorageStatusReply(
            node=state.name,
            az=state.az,
            pid=self._pid,
            state="disk full" if state.disk_full else "up",
            incarnation=state.incarnation,
            wal_bytes=state.wal.bytes_kept(),
        )
        for key in sorted(state.segments):
            segment = state.segments[key]
            reply.segments.add(
                volume=key.volume,
                pg=key.pg,
                scl=segment.scl,
                epoch=segment.epoch,
                applied=segment.applied,
                hot_from=segment.hot_from,
                pages=await state.store.count(key),
                pending_frames=segment.chain.pending,
                damaged=segment.row.damaged,
            )
        for name, value in sorted({**state.counters, **state.wal.counters}.items()):
            reply.counters[name] = value
        return reply
