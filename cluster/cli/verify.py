"""Are all copies equal? Every member's pages and log at one LSN, hashed and compared.

The LSN is one that all members of the group have reached. Pages are compared as of it, each with the LSN of
its newest record; of the log, every record that all members still have in their hot logs. Rot is not
repaired on the way, as a read would do: it is what this looks for.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.cli.client import channel_to
from engine.errors import NotComplete, SextetError, SnapshotTooOld
from engine.log.frame import decode_frame, split_frames
from engine.net.methods import FETCH_FRAMES, READ_PAGES, STORAGE_STATUS
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel
from engine.types import LSN, Member, Membership, NodeId, PgNo
from engine.volume.geometry import first_page

CALL_S = 10.0
PAGES_AT_ONCE = 256
TRIES = 5
"""The cluster works meanwhile: a copy may drop what another one has not got yet."""


@dataclass(frozen=True, slots=True)
class Digest:
    """One copy of one group as of the LSN asked for."""

    pages: int
    records: int
    value: str


@dataclass(frozen=True, slots=True)
class GroupVerdict:
    """`digests` of the members that answered, and what the others said."""

    pg: PgNo
    lsn: LSN
    digests: Mapping[NodeId, Digest] = field(default_factory=dict)
    errors: Mapping[NodeId, str] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether every member has answered, and all the same."""
        return not self.errors and len({d.value for d in self.digests.values()}) == 1


async def verify_group(volume: int, epoch: int, membership: Membership) -> GroupVerdict:
    """Compare the copies of one group. Whoever cannot be read is among the errors."""
    verdict = GroupVerdict(membership.pg, 0, {}, {"": "nobody answers"})
    for _ in range(TRIES):
        verdict = await _once(volume, epoch, membership)
        if not verdict.errors:
            break
    return verdict


async def _once(volume: int, epoch: int, membership: Membership) -> GroupVerdict:
    pg = membership.pg
    asked = membership.voters
    states = await asyncio.gather(*(_segment(m, volume, pg) for m in asked), return_exceptions=True)
    errors: dict[NodeId, str] = {}
    segments: dict[NodeId, pb.SegmentStatus] = {}
    for member, state in zip(asked, states, strict=True):
        if isinstance(state, pb.SegmentStatus):
            segments[member.node] = state
        else:
            errors[member.node] = str(state)
    lsn = min((s.scl for s in segments.values()), default=0)
    after = max((s.hot_from for s in segments.values()), default=0)
    known = [m for m in asked if m.node in segments]
    found = await asyncio.gather(
        *(_digest(m, volume, epoch, pg, lsn, after) for m in known), return_exceptions=True
    )
    digests: dict[NodeId, Digest] = {}
    for member, digest in zip(known, found, strict=True):
        if isinstance(digest, Digest):
            digests[member.node] = digest
        elif isinstance(digest, SextetError | TimeoutError):
            errors[member.node] = f"{type(digest).__name__}: {digest}"
        else:
            raise digest
    return GroupVerdict(pg, lsn, digests, errors)


async def _segment(member: Member, volume: int, pg: PgNo) -> pb.SegmentStatus:
    """Raises SextetError if the node does not answer, or has no whole copy on the right disk."""
    async with channel_to(member.address) as channel:
        status = await channel.call(
            STORAGE_STATUS, pb.StorageStatusRequest(brief=True), timeout=CALL_S
        )
    for segment in status.segments:
        if (segment.volume, segment.pg, segment.incarnation) == (volume, pg, member.incarnation):
            if segment.damaged:
                condition = "" if status.state == "up" else f" ({status.state})"
                raise NotComplete(f"its copy is not whole yet{condition}")
            return segment
    raise NotComplete("it has no copy on the disk that it has now")


async def _digest(
    member: Member, volume: int, epoch: int, pg: PgNo, lsn: LSN, after: LSN
) -> Digest:
    digest = hashlib.sha256()
    async with channel_to(member.address) as channel:
        pages = await _pages(channel, digest, volume=volume, epoch=epoch, pg=pg, lsn=lsn)
        records = await _records(channel, digest, volume=volume, pg=pg, after=after, upto=lsn)
    return Digest(pages, records, digest.hexdigest())


async def _pages(
    channel: Channel, digest: hashlib._Hash, *, volume: int, epoch: int, pg: PgNo, lsn: LSN
) -> int:
    """Every page of the group as of `lsn`; how many were ever written. Raises SnapshotTooOld …"""
    start, end = first_page(pg), first_page(pg + 1)
    written = 0
    for first in range(start, end, PAGES_AT_ONCE):
        request = pb.ReadPagesRequest(
            volume=volume,
            epoch=epoch,
            pg=pg,
            pages=range(first, min(first + PAGES_AT_ONCE, end)),
            read_lsn=lsn,
            pg_lsn=lsn,
            for_repair=True,
        )
        reply = await channel.call(READ_PAGES, request, timeout=CALL_S)
        for page in reply.pages:
            if page.lsn:
                written += 1
                digest.update(b"page %d %d " % (page.page, page.lsn) + page.image)
    return written


async def _records(
    channel: Channel, digest: hashlib._Hash, *, volume: int, pg: PgNo, after: LSN, upto: LSN
) -> int:
    """Every record in (after, upto], in LSN order; how many. Frames may be cut differently."""
    if after >= upto:
        return 0
    request = pb.FetchFramesRequest(volume=volume, pg=pg, after=after, upto=upto)
    stream = channel.stream(FETCH_FRAMES, request)
    seen: LSN = after
    count = 0
    try:
        while True:
            async with asyncio.timeout(CALL_S):
                chunk = await stream.recv()
            if chunk is None:
                return count
            if chunk.hot_from > after:
                raise SnapshotTooOld("the log was collected meanwhile")
            for _, frame in split_frames(chunk.frames):
                for record in decode_frame(frame):
                    if seen < record.lsn <= upto:
                        seen = record.lsn
                        count += 1
                        digest.update(repr(record).encode())
    finally:
        stream.close()
