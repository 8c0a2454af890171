"""What storage nodes say and give to an archiver: how far the log is durable, its frames, pages at an LSN.

Invariants
- An LSN counts as durable if a node knows it as a VDL: no recovery annuls what lies at or below it.
- Records come cut by the newest recovery's truncations that any node knows. A node may hold what that
  recovery annulled, and not know it yet.
- A page at an LSN comes from a node that is complete to the highest SCL of its group that anybody told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.errors import Corrupt, FormatError, SextetError, Unavailable
from engine.log.frame import split_frames
from engine.net.methods import FETCH_FRAMES, GOSSIP, READ_PAGES
from engine.net.pb import storage_pb2 as pb
from engine.ports import Stream
from engine.storage.fencing import authority_of, truncations_from_pb
from engine.storage.volume import trimmed
from engine.types import (
    LSN,
    ZERO_PAGE,
    Epoch,
    Membership,
    NodeId,
    PageNo,
    PgNo,
    Truncation,
    VolumeId,
)
from engine.volume.channels import Channels
from engine.volume.geometry import pg_of

log = logging.getLogger(__name__)

CALL_S = 5.0
"""For one answer, and between two chunks of a stream."""

FramesIn = Stream[pb.FetchFramesRequest, pb.FramesChunk]


@dataclass(slots=True)
class Standing:
    """What nodes said in one round."""

    vdl: LSN = 0
    truncations: tuple[Truncation, ...] = ()
    epochs: dict[NodeId, Epoch] = field(default_factory=dict)
    scls: dict[PgNo, dict[NodeId, LSN]] = field(default_factory=dict)
    """Of segments that miss nothing, by group."""

    def ahead(self, pg: PgNo, after: LSN) -> list[NodeId]:
        """Who has something of the group above `after`, who has most first."""
        known = self.scls.get(pg, {})
        return sorted((n for n, scl in known.items() if scl > after), key=lambda n: (-known[n], n))


class Source:
    """One volume's storage nodes. `memberships` is kept up to date by the owner."""

    def __init__(self, channels: Channels, volume: VolumeId, name: str) -> None:
        self.memberships: Mapping[PgNo, Membership] = {}
        self._channels = channels
        self._volume = volume
        self._name = name

    def _addresses(self) -> dict[NodeId, str]:
        return {m.node: m.address for one in self.memberships.values() for m in one.voters}

    async def look(self, archived: LSN) -> Standing:
        """Ask every node where it stands, and tell it up to where the log is archived."""
        standing = Standing()
        addresses = self._addresses()
        nodes = sorted(addresses)
        answers = await asyncio.gather(*(self._ask(n, addresses[n], archived) for n in nodes))
        authority = 0
        for node, reply in zip(nodes, answers, strict=True):
            if reply is None:
                continue
            for volume in (v for v in reply.volumes if v.volume == self._volume):
                truncations = truncations_from_pb(volume.truncations)
                standing.epochs[node] = volume.epoch
                standing.vdl = max(standing.vdl, volume.vdl)
                if authority_of(truncations) > authority:
                    authority = authority_of(truncations)
                    standing.truncations = tuple(truncations)
            for said in reply.segments:
                if said.volume == self._volume and not said.damaged:
                    standing.scls.setdefault(said.pg, {})[node] = said.scl
        return standing

    async def _ask(self, node: NodeId, address: str, archived: LSN) -> pb.GossipReply | None:
        request = pb.GossipRequest(
            node=self._name,
            segments=[
                pb.GossipSegment(volume=self._volume, pg=pg)
                for pg, membership in sorted(self.memberships.items())
                if membership.voter(node) is not None
            ],
            volumes=[pb.GossipVolume(volume=self._volume, archived=archived)],
        )
        try:
            return await self._channels.to(address).call(GOSSIP, request, timeout=CALL_S)
        except SextetError as error:
            log.debug("%s: %s: %s", node, type(error).__name__, error)
            return None

    async def frames(
        self, standing: Standing, pg: PgNo, after: LSN, upto: LSN, *, bytes_max: int
    ) -> list[bytes]:
        """The group's frames with records in (after, upto], from the first node that gives some.

        Raises `Forgotten` if nobody's hot log reaches back so far.
        """
        forgotten, asked = 0, standing.ahead(pg, after)
        for node in asked:
            try:
                return await self._fetch(standing, node, pg, after, upto, bytes_max)
            except Forgotten:
                forgotten += 1
            except (SextetError, TimeoutError) as error:
                log.info(
                    "%s gives no log of group %d: %s: %s", node, pg, type(error).__name__, error
                )
        if asked and forgotten == len(asked):
            raise Forgotten(f"group {pg}: nobody's log reaches back to LSN {after} any more")
        return []

    async def _fetch(
        self, standing: Standing, node: NodeId, pg: PgNo, after: LSN, upto: LSN, bytes_max: int
    ) -> list[bytes]:
        request = pb.FetchFramesRequest(
            volume=self._volume, pg=pg, after=after, upto=upto, epoch=standing.epochs[node]
        )
        stream: FramesIn = self._channels.to(self._addresses()[node]).stream(FETCH_FRAMES, request)
        found: list[bytes] = []
        size = 0
        try:
            while size < bytes_max:
                async with asyncio.timeout(CALL_S):
                    chunk = await stream.recv()
                if chunk is None:
                    break
                if chunk.hot_from > after:
                    raise Forgotten(f"{node} has log of group {pg} from {chunk.hot_from} on")
                size += len(chunk.frames)
                for header, frame in split_frames(chunk.frames):
                    if (header.volume, header.pg) != (self._volume, pg):
                        raise FormatError(f"{node} gave a frame of group {header.pg}")
                    kept = trimmed(frame, header, standing.truncations)
                    if kept is not None:
                        found.append(kept)
        finally:
            stream.close()
        return found

    async def pages(self, standing: Standing, pages: Sequence[PageNo], at: LSN) -> list[bytes]:
        """Images of `pages`, all of one group, as of `at`, which nobody collects meanwhile.

        Raises Unavailable if no node can answer, Corrupt if all that can say that theirs are rotten.
        """
        pg = pg_of(pages[0])
        known = standing.scls.get(pg, {})
        need = max(known.values(), default=0)
        if need == 0:
            return [ZERO_PAGE] * len(pages)
        errors: list[SextetError] = []
        for node in [n for n in standing.ahead(pg, 0) if known[n] == need]:
            request = pb.ReadPagesRequest(
                volume=self._volume,
                epoch=standing.epochs[node],
                pg=pg,
                pages=pages,
                read_lsn=at,
                pg_lsn=need,
            )
            try:
                channel = self._channels.to(self._addresses()[node])
                reply = await channel.call(READ_PAGES, request, timeout=CALL_S)
            except SextetError as error:
                errors.append(error)
                continue
            return [page.image or ZERO_PAGE for page in reply.pages]
        if errors and all(isinstance(error, Corrupt) for error in errors):
            raise errors[0]
        raise Unavailable(f"no node gives pages of group {pg} at LSN {at}: {_list(errors)}")


class Forgotten(SextetError):
    """What is to be archived is no longer in any hot log."""


def _list(errors: Iterable[SextetError]) -> str:
    return "; ".join(str(error) for error in errors) or "none is complete"
