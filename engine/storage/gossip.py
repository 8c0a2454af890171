"""Segments fill their gaps from one another (P17 §3.3, step 4).

A round: pick a peer, tell it this node's SCLs, epochs and points; learn its. A higher epoch and its
truncations are taken over before anything else; frames travel only between equal epochs. Where the
peer is ahead, fetch the frames after our SCL; where its hot log no longer reaches that far back,
copy its pages first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from engine.errors import Corrupt, DiskFull, FormatError, SextetError
from engine.log.frame import split_frames
from engine.net.methods import COPY_PAGES, FETCH_FRAMES, GOSSIP
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel
from engine.storage.fencing import learn, truncations_from_pb, truncations_to_pb
from engine.storage.pagestore import PageVersion
from engine.storage.segment import Segment
from engine.storage.state import NodeState
from engine.types import CommitMark, SegmentId
from engine.volume.quorum import READ

log = logging.getLogger(__name__)


def describe(state: NodeState, segments: Sequence[SegmentId]) -> pb.GossipReply:
    """What this node says about those of `segments` that it keeps."""
    reply = pb.GossipReply()
    volumes = set()
    for key in segments:
        segment = state.segments.get(key)
        if segment is not None:
            reply.segments.add(volume=key.volume, pg=key.pg, scl=segment.scl)
            volumes.add(key.volume)
    for volume in sorted(volumes):
        own = state.of_volume(volume)
        reply.volumes.add(
            volume=volume,
            epoch=state.volume_epoch(volume),
            vdl=max(s.known_vdl for s in own),
            pgmrpl=max(s.floor for s in own),
            truncations=truncations_to_pb(state.truncations.get(volume, ())),
        )
    return reply


async def serve_gossip(state: NodeState, request: pb.GossipRequest) -> pb.GossipReply:
    """Answer a peer, and learn from what it said."""
    await _learn_volumes(state, request.volumes)
    return describe(state, [SegmentId(s.volume, s.pg) for s in request.segments])


async def _learn_volumes(state: NodeState, volumes: Sequence[pb.GossipVolume]) -> None:
    for said in volumes:
        if state.of_volume(said.volume):
            await learn(state, said.volume, said.epoch, truncations_from_pb(said.truncations))
        for segment in state.of_volume(said.volume):
            segment.learn_points(vdl=said.vdl, pgmrpl=0)


class Gossiper:
    """`run` is the background task; `round_with` one exchange with one peer."""

    def __init__(self, state: NodeState) -> None:
        self._state = state

    async def run(self) -> None:
        state = self._state
        while True:
            hurry = any(s.chain.pending or s.row.damaged for s in state.segments.values())
            pause = state.config.gossip_hurry_s if hurry else state.config.gossip_s
            await asyncio.sleep(pause * (0.5 + state.runtime.rng.random()))
            peers = self._peers()
            if not peers:
                continue
            name = state.runtime.rng.choice(sorted(peers))
            try:
                await self.round_with(name, peers[name])
            except (SextetError, TimeoutError) as error:
                log.debug("gossip with %s: %s: %s", name, type(error).__name__, error)

    def _peers(self) -> dict[str, Channel]:
        peers: dict[str, Channel] = {}
        for key in sorted(self._state.segments):
            peers |= self._state.peers(self._state.segments[key].row.membership)
        return peers

    async def round_with(self, name: str, channel: Channel) -> None:
        """One exchange. Raises SextetError if the peer or this disk fails."""
        state = self._state
        state.counters["gossip_rounds"] += 1
        own = describe(state, sorted(state.segments))
        request = pb.GossipRequest(node=state.name, segments=own.segments, volumes=own.volumes)
        reply = await channel.call(GOSSIP, request, timeout=state.config.peer_timeout_s)
        await _learn_volumes(state, reply.volumes)
        epochs = {said.volume: said.epoch for said in reply.volumes}
        for said in reply.segments:
            segment = state.segments.get(SegmentId(said.volume, said.pg))
            if segment is None or epochs.get(said.volume) != segment.epoch:
                continue
            if not state.settled(said.volume):
                continue
            if said.scl > segment.scl:
                await self._catch_up(segment, name, channel)
            if said.scl <= segment.scl and segment.row.damaged:
                await self._note_caught_up(segment, name)

    async def _note_caught_up(self, segment: Segment, name: str) -> None:
        """A damaged segment is whole again once it has what any three others have: whatever it
        acked before stood on at least three others, and one of them is among any three."""
        segment.caught_up_with.add(name)
        if len(segment.caught_up_with) >= READ:
            segment.row = replace(segment.row, damaged=False)
            await self._state.put_rows([segment])
            log.warning("group %d is whole again", segment.row.id.pg)

    async def _catch_up(self, segment: Segment, name: str, channel: Channel) -> None:
        state = self._state
        before = segment.scl
        if await self._fetch_frames(segment, channel):
            return
        log.warning(
            "group %d: the log after %d is gone at %s, copying its pages",
            segment.row.id.pg,
            before,
            name,
        )
        await copy_segment(state, segment, channel)
        await self._fetch_frames(segment, channel)

    async def _fetch_frames(self, segment: Segment, channel: Channel) -> bool:
        """Frames after our SCL; False if the peer's hot log begins later."""
        state = self._state
        key, epoch = segment.row.id, segment.epoch
        request = pb.FetchFramesRequest(
            volume=key.volume, pg=key.pg, after=segment.scl, epoch=epoch
        )
        stream = channel.stream(FETCH_FRAMES, request)
        try:
            while True:
                async with asyncio.timeout(state.config.peer_timeout_s):
                    chunk = await stream.recv()
                if chunk is None:
                    break
                if chunk.hot_from > segment.scl:
                    return False
                for header, frame in split_frames(chunk.frames):
                    if segment.epoch != epoch:
                        return True  # a recovery came: begin again under its epoch
                    if state.take_in(segment, header, frame):
                        state.counters["gossip_frames_filled"] += 1
                await state.durable()
        except (FormatError, Corrupt) as error:
            log.warning("a peer sent a bad frame: %s", error)
        except DiskFull:
            state.disk_full = True
            raise
        finally:
            stream.close()
        return True


async def copy_segment(state: NodeState, segment: Segment, channel: Channel) -> None:
    """Take over a peer's page versions and begin the chain where they stand."""
    key, epoch = segment.row.id, segment.epoch
    request = pb.CopyPagesRequest(volume=key.volume, pg=key.pg, epoch=epoch)
    stream = channel.stream(COPY_PAGES, request)
    try:
        while True:
            async with asyncio.timeout(state.config.peer_timeout_s):
                chunk = await stream.recv()
            if chunk is None:
                return  # it ended before the last chunk: nothing is taken over
            versions = [PageVersion.make(key.volume, p.page, p.lsn, p.image) for p in chunk.pages]
            await state.guarded(state.store.put_versions(key, versions))
            if chunk.last:
                break
    finally:
        stream.close()
    if chunk.as_of <= segment.scl or segment.epoch != epoch:
        return
    commit = max(
        (CommitMark(c.lsn, c.time_us, c.pages) for c in chunk.commits), default=segment.row.commit
    )
    segment.restart_at(chunk.as_of, commit)
    segment.learn_points(vdl=chunk.as_of, pgmrpl=0)
    await state.put_rows([segment])
    state.counters["segments_copied"] += 1
