"""Segments fill their gaps from one another (P17 §3.3, step 4).

A round: pick a peer, tell it this node's SCLs, epochs and points; learn its. A higher epoch and its
truncations are taken over before anything else; frames travel only between equal epochs. Where the
peer is ahead, fetch the frames after our SCL; where its hot log no longer reaches that far back,
copy its pages first.

A healthy segment is a little behind its peers at every moment, by what is in flight to it. So the
background rounds fetch only what a peer had at an earlier round already, or what leaves a gap.

A damaged segment is whole again once it has all that any three undamaged peers have. What it acked
and counted stands on a write quorum, so on three others at least, and of any three of the five
others one is among them. A peer that is damaged itself proves nothing. And nobody may count later what
it acked and has lost, with others' acks of after we looked: so the three are asked only once the writer
has said that it heard where this segment stands now, or another recovery has fenced this node
(`Segment.unheard`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from engine.errors import Corrupt, DiskFull, FormatError, SextetError
from engine.log.frame import split_frames
from engine.net.methods import COPY_PAGES, FETCH_FRAMES, GOSSIP
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel, Stream
from engine.steps import Mark, Step
from engine.storage.fencing import authority_of, learn, truncations_from_pb, truncations_to_pb
from engine.storage.loss import Loss
from engine.storage.pagestore import PageVersion
from engine.storage.segment import Segment
from engine.storage.state import NodeState, check_numbers
from engine.storage.volume import Volume
from engine.tasks import set_within
from engine.types import LSN, PAGE_SIZE, SegmentId
from engine.volume.fencing import commit_from_pb
from engine.volume.geometry import pg_of
from engine.volume.membership import is_joining, made_whole

log = logging.getLogger(__name__)

CALM_ROUNDS = 4
"""After so many rounds in which there was nothing new to say or to fetch, rounds come less often."""


def describe(state: NodeState, segments: Iterable[SegmentId]) -> pb.GossipReply:
    """What this node says about those of `segments` that it keeps."""
    reply = pb.GossipReply()
    volumes = set()
    for key in segments:
        volume = state.volumes.get(key.volume)
        segment = volume.segments.get(key.pg) if volume is not None else None
        if segment is not None:
            volumes.add(key.volume)
            reply.segments.add(
                volume=key.volume,
                pg=key.pg,
                scl=segment.scl,
                damaged=segment.row.damaged,
                membership_epoch=segment.members_since,
            )
    for known in [state.volumes[volume_id] for volume_id in sorted(volumes)]:
        reply.volumes.add(
            volume=known.id,
            epoch=known.epoch,
            vdl=known.points.vdl,
            pgmrpl=known.points.pgmrpl,
            truncations=truncations_to_pb(known.truncations),
            archived=known.points.archived,
        )
    return reply


async def serve_gossip(state: NodeState, request: pb.GossipRequest) -> pb.GossipReply:
    """Answer a peer, and learn from what it said. Raises ProtocolError."""
    await _learn_volumes(state, request.volumes)
    return describe(state, [SegmentId(s.volume, s.pg) for s in request.segments])


async def _learn_volumes(state: NodeState, said: Sequence[pb.GossipVolume]) -> None:
    for one in said:
        volume = state.volumes.get(one.volume)
        if volume is None:
            continue
        numbers = {"epoch": one.epoch, "VDL": one.vdl, "PGMRPL": one.pgmrpl}
        check_numbers("gossip", {**numbers, "archived LSN": one.archived})
        volume.learn_points(archived=one.archived)
        truncations = truncations_from_pb(one.truncations)
        await learn(state, volume, one.epoch, truncations)
        if volume.knows_recovery(authority_of(truncations)):
            volume.learn_points(vdl=one.vdl, pgmrpl=one.pgmrpl)


@dataclass(frozen=True, slots=True)
class _Peer:
    name: str
    channel: Channel
    copyable: bool
    """Whether its page versions may be taken over: they vouch for a VDL (`Volume.knows_recovery`)."""


class Gossiper:
    """`run` is the background task; `round_with` one exchange with one peer."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._seen: dict[SegmentId, LSN] = {}
        """The highest SCL that a peer reported in an earlier round."""
        self._given_up: set[SegmentId] = set()
        """Segments that were said to have lost something for good."""
        self._last: pb.GossipRequest | None = None
        self._calm = 0
        """Rounds since there was something new."""

    async def run(self) -> None:
        state = self._state
        while True:
            if self._calm >= CALM_ROUNDS and not self._hurry():
                longer = state.config.gossip_calm_times - 1
                await set_within(state.stirred, longer * state.config.gossip_s)
            state.stirred.clear()
            await asyncio.sleep(self._pause() * (0.5 + state.runtime.rng.random()))
            peers = self._peers()
            if not peers:
                continue
            name = state.runtime.rng.choice(sorted(peers))
            try:
                await self.round_with(name, peers[name], patient=True)
            except DiskFull as error:
                log.warning("gossip with %s: %s", name, error)
            except (SextetError, TimeoutError) as error:
                log.debug("gossip with %s: %s: %s", name, type(error).__name__, error)

    def _hurry(self) -> bool:
        return any(s.chain.pending or s.row.damaged for _, s in self._state.segments())

    def _pause(self) -> float:
        config = self._state.config
        return config.gossip_hurry_s if self._hurry() else config.gossip_s

    def _peers(self) -> dict[str, Channel]:
        peers: dict[str, Channel] = {}
        for _, segment in self._state.segments():
            peers |= self._state.peers(segment)
        return peers

    async def round_with(self, name: str, channel: Channel, *, patient: bool = False) -> None:
        """One exchange; `patient` leaves out what may still be on its way here.

        Raises SextetError or TimeoutError if the peer or this disk fails.
        """
        state = self._state
        state.counters["gossip_rounds"] += 1
        own = describe(state, [segment.row.id for _, segment in state.segments()])
        request = pb.GossipRequest(node=state.name, segments=own.segments, volumes=own.volumes)
        calm = self._calm + 1 if request == self._last else 0
        self._last, self._calm = request, 0  # if nobody answers there may be something new
        reply = await channel.call(GOSSIP, request, timeout=state.config.peer_timeout_s)
        self._calm = calm
        await _learn_volumes(state, reply.volumes)
        known = {said.volume: said for said in reply.volumes}
        for said in reply.segments:
            volume = state.volumes.get(said.volume)
            segment = volume.segments.get(said.pg) if volume is not None else None
            if segment is not None:
                self._note_help(segment, name, said)
            heard = known.get(said.volume)
            if volume is None or segment is None or heard is None or heard.epoch != volume.epoch:
                continue
            # A damaged segment must be able to heal even while recovery is stopped because of it; but
            # only from who has the same truncations, or it would take more than it can judge.
            theirs = truncations_from_pb(heard.truncations)
            if volume.settled or (segment.row.damaged and set(theirs) == set(volume.truncations)):
                copyable = volume.knows_recovery(authority_of(theirs))
                await self._with_segment(
                    volume, segment, said, _Peer(name, channel, copyable=copyable), patient
                )

    def _note_help(self, segment: Segment, name: str, said: pb.GossipSegment) -> None:
        """Remember whether that peer could help, and say once if nobody can."""
        segment.no_help.pop(name, None)
        if said.damaged or said.scl <= segment.scl:
            segment.no_help[name] = said.damaged
        key = segment.row.id
        losses = lost_for_good(self._state, segment)
        if not losses:
            self._given_up.discard(key)
        elif key not in self._given_up:
            self._given_up.add(key)
            log.critical(
                "%s has rotted away here and no other copy has it. It may have been acknowledged, so no "
                "writer can open volume %d any more: import the last `sextet export` into a new cluster",
                "; ".join(loss.text(segment.pg) for loss in losses),
                key.volume,
            )

    async def _with_segment(
        self,
        volume: Volume,
        segment: Segment,
        said: pb.GossipSegment,
        peer: _Peer,
        patient: bool,
    ) -> None:
        key = segment.row.id
        if said.scl > segment.scl:
            self._calm = 0
        due = not patient or segment.chain.pending > 0 or segment.row.damaged
        if said.scl > segment.scl and (due or self._seen.get(key, 0) > segment.scl):
            await self._catch_up(volume, segment, peer)
        self._seen[key] = max(said.scl, self._seen.get(key, 0))
        if segment.row.damaged and not said.damaged and said.scl <= segment.scl:
            await self._note_caught_up(volume, segment, said, peer.name)

    async def _note_caught_up(
        self, volume: Volume, segment: Segment, said: pb.GossipSegment, name: str
    ) -> None:
        """One more peer of which this segment has all; perhaps it is whole now.

        Who is to replace a member counts only peers that refuse, for good, what is sent under older
        members: what they say they have is then all that counted (`engine.volume.membership`).
        """
        state, membership = self._state, segment.row.membership
        if segment.unheard or name not in state.peers(segment):
            return
        if is_joining(membership, state.name) and (
            said.membership_epoch < membership.epoch or segment.members_since < membership.epoch
        ):
            return
        segment.caught_up_with.add(name)
        if not made_whole(membership, state.name, segment.caught_up_with):
            return
        await state.durable_scls([segment])
        if segment.row.membership != membership or not segment.row.damaged:
            return  # the members changed meanwhile: it begins anew
        segment.row = replace(segment.row, damaged=False)
        state.runtime.steps.before(Step.WHOLE)
        await state.put_rows(volume, [segment])
        state.counters["segments_made_whole"] += 1
        state.runtime.steps.mark(Mark.MADE_WHOLE)
        state.runtime.steps.after(Step.WHOLE)
        log.warning("group %d of volume %d is whole", segment.pg, volume.id)

    async def _catch_up(self, volume: Volume, segment: Segment, peer: _Peer) -> None:
        if await self._fetch_frames(volume, segment, peer.channel):
            return
        if not peer.copyable:
            log.info("group %d: %s knows a recovery that is not known here", segment.pg, peer.name)
            return
        log.warning(
            "group %d: the log after %d is gone at %s, copying its pages",
            segment.pg,
            segment.scl,
            peer.name,
        )
        if await copy_segment(self._state, volume, segment, peer.channel):
            await self._fetch_frames(volume, segment, peer.channel)

    async def _fetch_frames(self, volume: Volume, segment: Segment, channel: Channel) -> bool:
        """Frames after our SCL, up to the end of the gap if there is one; False if the peer's hot
        log begins later."""
        state, epoch = self._state, volume.epoch
        request = pb.FetchFramesRequest(
            volume=volume.id,
            pg=segment.pg,
            after=segment.scl,
            upto=segment.gap_end(),
            epoch=epoch,
        )
        stream = channel.stream(FETCH_FRAMES, request)
        try:
            while (chunk := await self._next(stream)) is not None:
                if chunk.hot_from > segment.scl:
                    return False
                await state.wal.room()
                if volume.epoch != epoch:
                    return True  # a recovery came: begin again under its epoch
                state.runtime.steps.before(Step.FILL)
                self._take_in(volume, segment, chunk.frames)
                await state.durable_scls([segment])
                state.runtime.steps.after(Step.FILL)
        finally:
            stream.close()
        return True

    def _take_in(self, volume: Volume, segment: Segment, frames: bytes) -> None:
        try:
            for header, frame in split_frames(frames):
                if (header.volume, header.pg) != (volume.id, segment.pg):
                    raise FormatError(f"a frame of group {header.pg} was not asked for")
                if self._state.take_in(volume, segment, header, frame):
                    self._state.counters["gossip_frames_filled"] += 1
                    self._state.runtime.steps.mark(Mark.GAP_FILLED)
        except (FormatError, Corrupt) as error:
            log.warning("a peer sent a bad frame: %s", error)

    async def _next(
        self, stream: Stream[pb.FetchFramesRequest, pb.FramesChunk]
    ) -> pb.FramesChunk | None:
        async with asyncio.timeout(self._state.config.peer_timeout_s):
            return await stream.recv()


def lost_for_good(state: NodeState, segment: Segment) -> list[Loss]:
    """What the segment has lost though it has heard every peer, none of which had it, and too few of
    which can say that they never had. Such a group lets no recovery pass."""
    losses = segment.lost()
    if not losses or state.peers(segment).keys() - segment.no_help.keys():
        return []
    undamaged = {name for name, damaged in segment.no_help.items() if not damaged}
    return [] if made_whole(segment.row.membership, state.name, undamaged) else losses


async def copy_segment(
    state: NodeState, volume: Volume, segment: Segment, channel: Channel
) -> bool:
    """Take over a peer's page versions and begin the chain where they stand.

    Versions are written as they come: each is true as of its own LSN, so a copy that breaks off
    leaves nothing wrong behind, and reads wait for the chain anyway.
    """
    key, epoch = segment.row.id, volume.epoch
    request = pb.CopyPagesRequest(volume=key.volume, pg=key.pg, epoch=epoch)
    stream = channel.stream(COPY_PAGES, request)
    try:
        while True:
            async with asyncio.timeout(state.config.peer_timeout_s):
                chunk = await stream.recv()
            if chunk is None:
                return False  # it ended before the last chunk: nothing is taken over
            versions = [_version(key, page) for page in chunk.pages]
            if segment.dropped:
                return False
            if versions:
                state.runtime.steps.before(Step.COPY)
                await state.guarded(state.store.put_versions(key, versions))
            if chunk.last:
                break
    finally:
        stream.close()
    if chunk.as_of <= segment.scl or volume.epoch != epoch:
        return False
    commits = [commit_from_pb(c) for c in chunk.commits]
    volume.learn_points(vdl=chunk.as_of)
    segment.restart_at(chunk.as_of, max(commits, default=segment.newest_commit()))
    await state.put_rows(volume, [segment])
    segment.collected_to = segment.floor
    state.counters["segments_copied"] += 1
    state.runtime.steps.mark(Mark.PAGES_COPIED)
    state.runtime.steps.after(Step.COPY)
    return True


def _version(key: SegmentId, page: pb.PageImage) -> PageVersion:
    if pg_of(page.page) != key.pg or len(page.image) != PAGE_SIZE:
        raise FormatError(f"page {page.page} was not asked for or is not whole")
    return PageVersion.make(key.volume, page.page, page.lsn, page.image)
