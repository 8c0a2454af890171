"""What storage nodes say and give to an archiver: how far the log is durable, its frames, pages at an LSN.

Invariants
- An LSN counts as durable if a node knows it as a VDL: no recovery annuls what lies at or below it.
- Records come cut by the newest recovery's truncations that any node knows. A node may hold what that
  recovery annulled, and not know it yet.
- A page at an LSN comes from a node that knows the newest recovery and is complete to the highest SCL that
  a read quorum of such nodes told: one of them at least has all of the group that was ever durable, and
  none of them anything that was annulled.
- The log is said to be forgotten only if a write quorum of a group says so: who was filled by a copy of
  pages has little log, and says nothing of what others have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
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
from engine.volume.quorum import READ, read_quorum, write_quorum

log = logging.getLogger(__name__)

CALL_S = 5.0
"""For one answer, and between two chunks of a stream."""

FramesIn = Stream[pb.FetchFramesRequest, pb.FramesChunk]


@dataclass(slots=True)
class Standing:
    """What nodes said in one round, and where they were then."""

    memberships: Mapping[PgNo, Membership] = field(default_factory=dict)
    all_asked: bool = True
    """Else it is good for nothing but to see that there is nothing new."""
    vdl: LSN = 0
    archived: LSN = 0
    """Up to where they have heard that the log is archived; those that were started since may not know."""
    truncations: tuple[Truncation, ...] = ()
    """Of the newest recovery that anybody knows, whose epoch is `authority`."""
    authority: Epoch = 0
    authorities: dict[NodeId, Epoch] = field(default_factory=dict)
    epochs: dict[NodeId, Epoch] = field(default_factory=dict)
    scls: dict[PgNo, dict[NodeId, LSN]] = field(default_factory=dict)
    """Of segments that miss nothing, by group."""

    def ahead(self, pg: PgNo, after: LSN) -> list[NodeId]:
        """Who has something of the group above `after`, who has most first."""
        known = self.scls.get(pg, {})
        return sorted((n for n, scl in known.items() if scl > after), key=lambda n: (-known[n], n))

    def complete(self, pg: PgNo) -> list[NodeId]:
        """Who has everything of the group that was ever durable, and nothing that was annulled; [] if too
        few have answered to tell."""
        known = {
            node: scl
            for node, scl in self.scls.get(pg, {}).items()
            if self.authorities[node] == self.authority
        }
        if pg not in self.memberships or not read_quorum(self.memberships[pg]).satisfied(known):
            return []
        return [node for node, scl in sorted(known.items()) if scl == max(known.values())]

    def address(self, node: NodeId) -> str:
        """Where a node that has answered was."""
        voters = (membership.voter(node) for membership in self.memberships.values())
        return next(voter.address for voter in voters if voter is not None)


class Source:
    """One volume's storage nodes. `memberships` is kept up to date by the owner."""

    def __init__(self, channels: Channels, volume: VolumeId, name: str) -> None:
        self.memberships: Mapping[PgNo, Membership] = {}
        self._channels = channels
        self._volume = volume
        self._name = name

    def few(self, turn: int) -> list[NodeId]:
        """A read quorum of the first group, of other nodes each turn: one of them knows of the newest
        recovery, and a writer tells all nodes of each VDL."""
        if not self.memberships:
            return []
        first = self.memberships[min(self.memberships)]
        nodes = sorted(m.node for m in first.voters)
        start = turn * READ % len(nodes)
        chosen: list[NodeId] = []
        for node in nodes[start:] + nodes[:start]:
            if read_quorum(first).satisfied(chosen):
                break
            chosen.append(node)
        return chosen

    async def look(self, archived: LSN, among: Collection[NodeId] | None = None) -> Standing:
        """Ask every node, or those `among` them, where it stands, and tell it up to where the log is
        archived."""
        standing = Standing(dict(self.memberships), all_asked=among is None)
        addresses = {m.node: m.address for one in self.memberships.values() for m in one.voters}
        nodes = sorted(addresses if among is None else addresses.keys() & set(among))
        answers = await asyncio.gather(*(self._ask(n, addresses[n], archived) for n in nodes))
        for node, reply in zip(nodes, answers, strict=True):
            if reply is None:
                continue
            for volume in (v for v in reply.volumes if v.volume == self._volume):
                truncations = truncations_from_pb(volume.truncations)
                standing.epochs[node] = volume.epoch
                standing.vdl = max(standing.vdl, volume.vdl)
                standing.archived = max(standing.archived, volume.archived)
                authority = standing.authorities[node] = authority_of(truncations)
                if authority > standing.authority:
                    standing.authority, standing.truncations = authority, tuple(truncations)
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
        self,
        standing: Standing,
        pg: PgNo,
        after: LSN,
        upto: LSN,
        *,
        bytes_max: int,
        first: int = 0,
    ) -> list[bytes]:
        """The group's frames with records in (after, upto], from the first node that gives some.

        A node leaves out what is rotten, so another `first` node is asked where the last one's frames led
        no further. Raises `Forgotten` if nobody's hot log reaches back so far.
        """
        forgotten: list[NodeId] = []
        asked = standing.ahead(pg, after)
        turn = first % max(1, len(asked))
        for node in asked[turn:] + asked[:turn]:
            try:
                return await self._fetch(standing, node, pg, after, upto, bytes_max)
            except Forgotten:
                forgotten.append(node)
            except (SextetError, TimeoutError) as error:
                log.info(
                    "%s gives no log of group %d: %s: %s", node, pg, type(error).__name__, error
                )
        if write_quorum(standing.memberships[pg]).satisfied(forgotten):
            raise Forgotten(f"group {pg}: nobody's log reaches back to LSN {after} any more")
        return []

    async def _fetch(
        self, standing: Standing, node: NodeId, pg: PgNo, after: LSN, upto: LSN, bytes_max: int
    ) -> list[bytes]:
        request = pb.FetchFramesRequest(
            volume=self._volume, pg=pg, after=after, upto=upto, epoch=standing.epochs[node]
        )
        stream: FramesIn = self._channels.to(standing.address(node)).stream(FETCH_FRAMES, request)
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
        asked = standing.complete(pg)
        errors: list[SextetError] = []
        for node in asked:
            request = pb.ReadPagesRequest(
                volume=self._volume,
                epoch=standing.epochs[node],
                pg=pg,
                pages=pages,
                read_lsn=at,
                pg_lsn=standing.scls[pg][node],
            )
            try:
                channel = self._channels.to(standing.address(node))
                reply = await channel.call(READ_PAGES, request, timeout=CALL_S)
            except SextetError as error:
                errors.append(error)
                continue
            return [page.image or ZERO_PAGE for page in reply.pages]
        if errors and all(isinstance(error, Corrupt) for error in errors):
            raise errors[0]
        why = "; ".join(str(error) for error in errors) or "too few answer to know who is complete"
        raise Unavailable(f"no node gives pages of group {pg} at LSN {at}: {why}")


class Forgotten(SextetError):
    """What is to be archived is no longer in any hot log."""
