"""Opening a volume: fence, decide, truncate, re-harden, open. No redo is replayed.

The decision is `engine.volume.recovery.plan_recovery`, which is pure; here are the requests around
it. The steps and why their order matters (P17 §4.3, P18 §2.4):

1. Fence a write quorum of every group under the new epoch. From each node's reply on, nothing of an
   older writer can become part of what it holds.
2. Plan: VCL, VDL, every group's tail at VDL, who lacks what.
3. Truncate what lies above VDL on a write quorum, so that a straggling record of the old epoch can
   never come back to life, whatever is recovered later.
4. Re-harden: every group's records at or below VDL stand on a write quorum again before anybody
   reads at VDL or builds on it.

Idempotent: a crash anywhere in it leaves a state from which the next recovery, under a higher epoch,
finds the same VDL or a later commit that was never acknowledged to be lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from engine.config import VolumeConfig
from engine.errors import (
    BehindEpoch,
    DeadlineExceeded,
    NotComplete,
    QuorumLost,
    RecoveryBlocked,
    SextetError,
    StaleEpoch,
    Unavailable,
    UnknownSegment,
)
from engine.log.chain import Chain
from engine.log.frame import split_frames
from engine.log.header import FrameHeader
from engine.net.methods import APPEND, ASSIGN_SEGMENTS, FENCE, FETCH_FRAMES, TRUNCATE
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel, Runtime
from engine.steps import Mark, Step
from engine.tasks import backoff, end_all
from engine.types import (
    LSN,
    CommitMark,
    Epoch,
    Member,
    Membership,
    NodeId,
    PgNo,
    Replacement,
    Truncation,
)
from engine.volume.quorum import QuorumSet, write_quorum
from engine.volume.recovery import FencedNode, LsnRun, RecoveryPlan, SegmentReport, plan_recovery

log = logging.getLogger(__name__)

T = TypeVar("T")

ROUNDS_MAX = 20
"""Fencing or re-hardening rounds, with backoff between, before recovery gives up with an error."""


@dataclass(frozen=True, slots=True)
class OpenedVolume:
    """A volume that recovery has made safe to write to under `epoch`."""

    volume: int
    epoch: Epoch
    max_pages: int
    memberships: tuple[Membership, ...]
    vdl: CommitMark
    next_lsn: LSN
    tails: Mapping[PgNo, LSN]
    scls: tuple[tuple[PgNo, NodeId, LSN], ...]
    truncations: tuple[Truncation, ...]
    """All that were ever made, this epoch's included."""
    storage_full: bool = False
    """The writer before left it storage-full."""


def membership_from_pb(message: pb.PgMembership) -> Membership:
    change = None
    if message.HasField("new"):
        change = Replacement(_member(message.old), _member(message.new))
    return Membership(
        pg=message.pg,
        epoch=message.epoch,
        members=tuple(_member(m) for m in sorted(message.members, key=lambda m: m.node)),
        replacing=change,
    )


def _member(m: pb.MemberInfo) -> Member:
    return Member(node=m.node, az=m.az, address=m.address, incarnation=m.incarnation)


def commit_to_pb(commit: CommitMark) -> pb.CommitPoint:
    return pb.CommitPoint(lsn=commit.lsn, time_us=commit.time_us, pages=commit.pages)


def commit_from_pb(message: pb.CommitPoint) -> CommitMark:
    return CommitMark(message.lsn, message.time_us, message.pages)


def membership_to_pb(membership: Membership) -> pb.PgMembership:
    message = pb.PgMembership(
        pg=membership.pg,
        epoch=membership.epoch,
        members=[_member_to_pb(m) for m in membership.members],
    )
    if membership.replacing is not None:
        message.old.CopyFrom(_member_to_pb(membership.replacing.old))
        message.new.CopyFrom(_member_to_pb(membership.replacing.new))
    return message


@lru_cache(maxsize=256)
def _member_to_pb(m: Member) -> pb.MemberInfo:
    """Copied by whoever puts it into a message: a volume's many groups have the same few."""
    return pb.MemberInfo(node=m.node, az=m.az, address=m.address, incarnation=m.incarnation)


async def exchange_memberships(
    channel: Channel,
    *,
    volume: int,
    node: NodeId,
    memberships: Iterable[Membership],
    timeout: float,
) -> tuple[list[Membership], list[PgNo]]:
    """Tell a node who keeps its groups. What it knows better comes back, and which segments it has not.

    Memberships come from the catalog only, so it does not matter who passes them on.
    """
    told = [(m, voter) for m in memberships if (voter := m.voter(node)) is not None]
    request = pb.AssignSegmentsRequest(
        segments=[
            pb.SegmentAssignment(
                volume=volume, membership=membership_to_pb(m), incarnation=voter.incarnation
            )
            for m, voter in told
        ]
    )
    reply = await channel.call(ASSIGN_SEGMENTS, request, timeout=timeout)
    newer = [membership_from_pb(m) for m in reply.newer]
    return newer, [a.membership.pg for a in reply.refused]


def truncation_to_pb(truncation: Truncation) -> pb.TruncationRange:
    return pb.TruncationRange(epoch=truncation.epoch, low=truncation.low, high=truncation.high)


async def catch_up(
    channel: Channel,
    *,
    volume: int,
    epoch: Epoch,
    truncations: Sequence[Truncation],
    timeout: float,
) -> pb.TruncateReply:
    """Bring a node that missed a recovery to `epoch`, truncations first-class, then it may ack."""
    await channel.call(FENCE, pb.FenceRequest(volume=volume, epoch=epoch), timeout=timeout)
    request = pb.TruncateRequest(
        volume=volume, epoch=epoch, truncations=[truncation_to_pb(t) for t in truncations]
    )
    return await channel.call(TRUNCATE, request, timeout=timeout)


async def open_volume(
    runtime: Runtime,
    config: VolumeConfig,
    reply: cpb.OpenVolumeReply,
    *,
    connect: Callable[[str], Channel],
) -> OpenedVolume:
    """Recover the volume under the epoch that the catalog gave.

    Raises StaleEpoch if a newer writer is at work, QuorumLost if no write quorum answers within
    bounded rounds, RecoveryBlocked if a record could be lost by going on, Unavailable if the reply
    lacks a group that was added meanwhile.
    """
    opening = _Opening(runtime, config, reply, connect)
    return await opening.run()


class _Opening:
    def __init__(
        self,
        runtime: Runtime,
        config: VolumeConfig,
        reply: cpb.OpenVolumeReply,
        connect: Callable[[str], Channel],
    ) -> None:
        self.runtime = runtime
        self.config = config
        self.volume = reply.volume
        self.epoch = reply.epoch
        self.max_pages = reply.max_pages
        self.storage_full = reply.storage_full
        self.memberships = tuple(
            membership_from_pb(m) for m in sorted(reply.memberships, key=lambda m: m.pg)
        )
        self.quorums: dict[PgNo, QuorumSet] = {m.pg: write_quorum(m) for m in self.memberships}
        members = {m.node: m for ms in self.memberships for m in ms.voters}
        self.channels = {node: connect(members[node].address) for node in sorted(members)}
        self.scl: dict[tuple[PgNo, NodeId], LSN] = {}
        self.tries: Counter[tuple[PgNo, NodeId]] = Counter()
        self.behind: set[NodeId] = set()
        """Nodes that have to be told who keeps their groups now."""

    async def run(self) -> OpenedVolume:
        steps = self.runtime.steps
        steps.before(Step.FENCED)
        states = await self._fence()
        steps.after(Step.FENCED)
        self._require_all_groups(states)
        self._require_newest_members(states)
        try:
            plan = plan_recovery(groups=self.memberships, states=states)
        except RecoveryBlocked:
            steps.mark(Mark.RECOVERY_BLOCKED)
            raise
        # Epoch 1 is the volume's first: nobody wrote before, so there is nothing to annul. A clone
        # has a VDL all the same: where it forked.
        fresh = self.epoch == 1
        truncations = plan.truncations
        if not fresh:
            truncations = (*truncations, plan.truncation(self.epoch))
        if plan.vcl > plan.vdl.lsn:
            steps.mark(Mark.RECORDS_ANNULLED)
        steps.before(Step.TRUNCATED)
        await self._truncate(sorted(states), truncations)
        steps.after(Step.TRUNCATED)
        steps.before(Step.REHARDENED)
        await self._reharden(plan, sorted(states), truncations)
        steps.after(Step.REHARDENED)
        return OpenedVolume(
            volume=self.volume,
            epoch=self.epoch,
            max_pages=self.max_pages,
            memberships=self.memberships,
            vdl=plan.vdl,
            next_lsn=plan.vdl.lsn + 1 if fresh else truncations[-1].high + 1,
            tails={pg: group.tail for pg, group in plan.groups.items()},
            scls=tuple((pg, node, scl) for (pg, node), scl in sorted(self.scl.items())),
            truncations=truncations,
            storage_full=self.storage_full,
        )

    # -- 1. fence

    async def _fence(self) -> dict[NodeId, FencedNode]:
        states: dict[NodeId, FencedNode] = {}
        delays = backoff(self.runtime.rng, self.config.backoff_first_s, self.config.backoff_limit_s)
        for _ in range(ROUNDS_MAX):
            await self._fence_round(states)
            if self._lacking(states) is None:
                return states
            await asyncio.sleep(next(delays))
        missing = sorted(set(self.channels) - set(states))
        raise QuorumLost(
            f"cannot open the volume: group {self._lacking(states)} has no write quorum; "
            f"no answer from {', '.join(missing)}. Start the missing storage nodes"
        )

    async def _fence_round(self, states: dict[NodeId, FencedNode]) -> None:
        """Ask everybody not fenced yet; stop waiting a little after a write quorum answered."""
        tasks = {
            asyncio.create_task(self._fence_node(node)): node
            for node in sorted(self.channels)
            if node not in states
        }
        pending = set(tasks)
        grace: float | None = None
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=grace, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    return
                for task in sorted(done, key=lambda t: tasks[t]):
                    self._note_fenced(tasks[task], task, states)
                if self._lacking(states) is None:
                    grace = self.config.fence_grace_s
        finally:
            await end_all(*sorted(pending, key=lambda t: tasks[t]))  # a set's own order is nobody's

    def _note_fenced(
        self,
        node: NodeId,
        task: asyncio.Task[pb.FenceReply],
        states: dict[NodeId, FencedNode],
    ) -> None:
        try:
            states[node] = _fenced_from_pb(task.result())
        except StaleEpoch:
            raise
        except SextetError as error:
            log.warning("fencing %s: %s: %s", node, type(error).__name__, error)

    async def _fence_node(self, node: NodeId) -> pb.FenceReply:
        request = pb.FenceRequest(volume=self.volume, epoch=self.epoch)
        return await self.channels[node].call(FENCE, request, timeout=self.config.call_timeout_s)

    def _lacking(self, states: Mapping[NodeId, FencedNode]) -> PgNo | None:
        """The first group without a write quorum among the fenced, or None."""
        for membership in self.memberships:
            fenced = {
                m.node
                for m in membership.voters
                if m.node in states
                and membership.pg in states[m.node].segments
                and states[m.node].segments[membership.pg].incarnation == m.incarnation
            }
            if not self.quorums[membership.pg].satisfied(fenced):
                return membership.pg
        return None

    def _require_all_groups(self, states: Mapping[NodeId, FencedNode]) -> None:
        """The writer before may have added a group after the catalog had made its reply, and have had
        commits there acknowledged: without its records they would be discarded. Whoever wrote to it
        wrote to four, so one of them is fenced. Raises Unavailable: the catalog's next reply has it."""
        for node in sorted(states):
            unknown = sorted(states[node].segments.keys() - self.quorums.keys())
            if unknown:
                raise Unavailable(
                    f"{node} keeps protection group {unknown[0]}, which the catalog did not name when "
                    f"it gave epoch {self.epoch}; open the volume again"
                )

    def _require_newest_members(self, states: Mapping[NodeId, FencedNode]) -> None:
        """A group's members may have changed after the catalog had made its reply, and a quorum of the
        new ones have acknowledged. It meets every quorum of those before, so somebody fenced knows.
        Raises Unavailable: the catalog's next reply has it."""
        epochs = {m.pg: m.epoch for m in self.memberships}
        for node in sorted(states):
            for pg, report in sorted(states[node].segments.items()):
                if report.membership_epoch < epochs[pg]:
                    self.behind.add(node)
                if report.membership_epoch > epochs[pg]:
                    raise Unavailable(
                        f"{node} knows membership epoch {report.membership_epoch} of group {pg}, the "
                        f"catalog's reply had {epochs[pg]}; open the volume again"
                    )

    # -- 3. truncate

    async def _truncate(self, nodes: Sequence[NodeId], truncations: Sequence[Truncation]) -> None:
        epochs = {m.pg: m.epoch for m in self.memberships}

        async def one(node: NodeId) -> None:
            if node in self.behind:
                await exchange_memberships(
                    self.channels[node],
                    volume=self.volume,
                    node=node,
                    memberships=self.memberships,
                    timeout=self.config.call_timeout_s,
                )
                self.behind.discard(node)
            reply = await catch_up(
                self.channels[node],
                volume=self.volume,
                epoch=self.epoch,
                truncations=truncations,
                timeout=self.config.call_timeout_s,
            )
            for segment in reply.segments:
                if epochs.get(segment.pg) == segment.membership_epoch:
                    self.scl[segment.pg, node] = segment.scl

        done = await self._each(nodes, one, "truncating")
        for pg, quorum in sorted(self.quorums.items()):
            if not quorum.satisfied(done):
                raise QuorumLost(f"group {pg} lost its write quorum while truncating")

    async def _each(
        self, nodes: Sequence[NodeId], one: Callable[[NodeId], object], what: str
    ) -> set[NodeId]:
        results = await asyncio.gather(
            *(one(node) for node in nodes),  # type: ignore[call-overload]
            return_exceptions=True,
        )
        done = set()
        for node, result in zip(nodes, results, strict=True):
            if isinstance(result, StaleEpoch) or (
                isinstance(result, BaseException) and not isinstance(result, SextetError)
            ):
                raise result
            if isinstance(result, SextetError):
                log.warning("%s %s: %s: %s", what, node, type(result).__name__, result)
            else:
                done.add(node)
        return done

    # -- 4. re-harden

    async def _reharden(
        self, plan: RecoveryPlan, nodes: Sequence[NodeId], truncations: Sequence[Truncation]
    ) -> None:
        delays = backoff(self.runtime.rng, self.config.backoff_first_s, self.config.backoff_limit_s)
        for _ in range(ROUNDS_MAX):
            lacking = self._not_hard(plan)
            if not lacking:
                return
            for pg in lacking:
                self.runtime.steps.mark(Mark.REHARDENED)
                await self._reharden_group(pg, plan.groups[pg].tail, nodes)
            if self._not_hard(plan):
                await asyncio.sleep(next(delays))
                # A segment behind the hot log is repaired by its peers meanwhile: look again.
                await self._truncate(nodes, truncations)
        pg = self._not_hard(plan)[0]
        raise QuorumLost(f"group {pg} cannot be brought to a write quorum at LSN {plan.vdl.lsn}")

    def _not_hard(self, plan: RecoveryPlan) -> list[PgNo]:
        return [
            membership.pg
            for membership in self.memberships
            if not self.quorums[membership.pg].satisfied(
                {
                    m.node
                    for m in membership.voters
                    if self.scl.get((membership.pg, m.node), -1) >= plan.groups[membership.pg].tail
                }
            )
        ]

    async def _reharden_group(self, pg: PgNo, tail: LSN, nodes: Sequence[NodeId]) -> None:
        """Bring up as many segments as the write quorum lacks, those that lack least first."""
        scls = {node: self.scl[pg, node] for node in nodes if (pg, node) in self.scl}
        chosen = self._chosen(pg, tail, scls)
        if not chosen:
            return  # whoever could help has not answered the truncation yet
        frames = await self._collect(pg, min(scls[node] for node in chosen), tail, scls)

        async def send(node: NodeId) -> None:
            missing = [frame for last, frame in frames if last > scls[node]]
            self.scl[pg, node] = await self._send(node, pg, missing, tail)

        await self._each(chosen, send, "re-hardening")

    def _chosen(self, pg: PgNo, tail: LSN, scls: Mapping[NodeId, LSN]) -> list[NodeId]:
        """The lagging segments to bring up now; one that was tried in vain comes after the others."""
        hard = {node for node in scls if scls[node] >= tail}
        lagging = [node for node in sorted(scls) if scls[node] < tail]
        chosen: list[NodeId] = []
        for node in sorted(lagging, key=lambda n: (self.tries[pg, n], -scls[n], n)):
            if self.quorums[pg].satisfied(hard):
                break
            hard.add(node)
            chosen.append(node)
            self.tries[pg, node] += 1
        return chosen

    async def _collect(
        self, pg: PgNo, floor: LSN, tail: LSN, scls: Mapping[NodeId, LSN]
    ) -> list[tuple[LSN, bytes]]:
        """(last LSN, frame) of the frames from `floor` to `tail`, from as few nodes as have them."""
        found: dict[LSN, tuple[FrameHeader, bytes]] = {}

        async def fetch(node: NodeId) -> None:
            for header, frame in await self._frames(node, pg, floor, tail):
                known = found.get(header.first_lsn)
                # One node may hold only the head of a frame, which a dead recovery had cut.
                if known is None or known[0].last_lsn < header.last_lsn:
                    found[header.first_lsn] = header, frame

        for node in sorted(scls, key=lambda n: (-scls[n], n)):
            await self._each([node], fetch, "fetching frames from")
            chain = Chain(floor)
            for first in sorted(found):
                chain.offer(found[first][0].prev_pg_lsn, found[first][0].last_lsn)
            if chain.scl >= tail:
                break
        return [(found[first][0].last_lsn, found[first][1]) for first in sorted(found)]

    async def _frames(
        self, node: NodeId, pg: PgNo, after: LSN, upto: LSN
    ) -> list[tuple[FrameHeader, bytes]]:
        request = pb.FetchFramesRequest(
            volume=self.volume, pg=pg, after=after, upto=upto, epoch=self.epoch
        )
        stream = self.channels[node].stream(FETCH_FRAMES, request)
        found = []
        try:
            while (chunk := await self._within(node, stream.recv())) is not None:
                found += list(split_frames(chunk.frames))
        finally:
            stream.close()
        return found

    async def _send(self, node: NodeId, pg: PgNo, frames: Sequence[bytes], tail: LSN) -> LSN:
        """Append `frames` at `node`; how far its segment then reaches."""
        membership = next(m for m in self.memberships if m.pg == pg)
        stream = self.channels[node].stream(APPEND)
        scl = self.scl[pg, node]

        async def send_all() -> None:
            for frame in frames:
                part = pb.PgFrames(pg=pg, membership_epoch=membership.epoch, frames=frame)
                await stream.send(
                    pb.AppendRequest(volume=self.volume, epoch=self.epoch, pgs=[part])
                )
            await stream.done_sending()

        sender = asyncio.create_task(send_all(), name=f"re-harden {node}")
        try:
            while scl < tail and (ack := await self._within(node, stream.recv())) is not None:
                scl = _scl_from_ack(node, membership, ack, scl)
            if scl < tail:
                log.warning("re-hardening %s: it stays at %d, %d is needed", node, scl, tail)
        finally:
            await end_all(sender)
            stream.close()
        return scl

    async def _within(self, node: NodeId, answer: Awaitable[T]) -> T:
        """`answer`, in the time that a call may take: a peer may be there and silent."""
        try:
            async with asyncio.timeout(self.config.call_timeout_s):
                return await answer
        except TimeoutError:
            raise DeadlineExceeded(f"{node} is silent") from None


def _scl_from_ack(node: NodeId, membership: Membership, ack: pb.AppendAck, scl: LSN) -> LSN:
    match ack.refusal:
        case pb.REFUSAL_NONE:
            counted = (membership.pg, membership.epoch)
            acked = [s.scl for s in ack.segments if (s.pg, s.membership_epoch) == counted]
            return max([scl, *acked])
        case pb.REFUSAL_STALE_EPOCH:
            raise StaleEpoch(f"{node} is fenced at epoch {ack.epoch} by a newer recovery")
        case pb.REFUSAL_BEHIND_EPOCH:
            raise BehindEpoch(f"{node}: {ack.detail}")
        case pb.REFUSAL_UNKNOWN_SEGMENT:
            raise UnknownSegment(f"{node}: {ack.detail}")
        case refusal:
            raise NotComplete(f"{node}: {pb.Refusal.Name(refusal)} {ack.detail}")


def _fenced_from_pb(reply: pb.FenceReply) -> FencedNode:
    return FencedNode(
        segments={s.pg: _report_from_pb(s) for s in reply.segments},
        truncations=tuple(Truncation(t.epoch, t.low, t.high) for t in reply.truncations),
    )


def _report_from_pb(state: pb.SegmentState) -> SegmentReport:
    return SegmentReport(
        pg=state.pg,
        incarnation=state.incarnation,
        epoch=state.epoch,
        membership_epoch=state.membership_epoch,
        scl=state.scl,
        known_vdl=state.known_vdl,
        tail=state.tail,
        runs=tuple(LsnRun(first=r.first, last=r.last, prev=r.prev) for r in state.runs),
        commits=tuple(map(commit_from_pb, state.commits)),
        damaged=state.damaged,
        hot_from=state.hot_from,
    )
