"""Getting segments created on the nodes that are to keep them.

The catalog says who keeps what before anybody creates anything, and remembers who has confirmed.
Whoever is away is asked again when it registers and every now and then; nobody waits for the last
of six, because four are a write quorum.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

from cluster.control.catalog import Catalog
from cluster.control.rows import Assignment
from engine.errors import SextetError, Unavailable
from engine.net.methods import ASSIGN_SEGMENTS
from engine.net.pb import storage_pb2 as pb
from engine.ports import Runtime
from engine.steps import Step
from engine.tasks import Background, backoff
from engine.types import Membership, NodeId, PgNo, VolumeId
from engine.volume.channels import Channels
from engine.volume.fencing import commit_to_pb, membership_to_pb
from engine.volume.quorum import write_quorum

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 2.0
FORK_TIMEOUT_S = 10.0
"""A node may have to turn redo into pages first."""

ALL_SIX_S = 0.5
"""How long a new group waits for more members once it has a write quorum of them."""

QUORUM_S = 5.0
"""How long it waits for a write quorum before the caller is told to try again."""

RETRY_FIRST_S, RETRY_LIMIT_S = 0.2, 5.0

SEGMENTS_PER_CALL = 128
"""A node creates them before it answers: a clone's in one transaction, 1.25 GiB of a volume, but for
those that need page versions of their own. These are prepared in memory, and made one by one."""

FORK_REFUSALS = 5
"""So often a node may say that it cannot make a clone's segment over another one, which may become
possible: what it lacks may be on its way. Then it is to make an empty one, which its peers fill."""


Segments = Collection[tuple[VolumeId, PgNo]]


def assignment_to_pb(assignment: Assignment) -> pb.SegmentAssignment:
    message = pb.SegmentAssignment(
        volume=assignment.volume,
        membership=membership_to_pb(assignment.membership),
        incarnation=assignment.incarnation,
        create=assignment.create,
    )
    fork = assignment.fork
    if fork is not None and assignment.create:
        for volume, lsn in fork.ancestry:
            message.fork.ancestry.add(volume=volume, lsn=lsn)
        message.fork.tail = fork.tail
        commit = fork.commit
        message.fork.commit.CopyFrom(commit_to_pb(commit))
    return message


class Assigner:
    """Tells storage nodes what they are to keep and records what they confirm."""

    def __init__(
        self, runtime: Runtime, catalog: Catalog, channels: Channels, background: Background
    ) -> None:
        self._runtime = runtime
        self._catalog = catalog
        self._channels = channels
        self._background = background
        self._wake = asyncio.Event()
        self._asked: dict[NodeId, asyncio.Task[None]] = {}
        """By `ask_all`, and not done yet."""
        self._refusals: Counter[tuple[NodeId, VolumeId, PgNo]] = Counter()
        """Of clones that are made; each only until the node has its segment."""

    def wake(self) -> None:
        """Somebody registered, or a group is new: look for unconfirmed segments now."""
        self._wake.set()

    async def run(self) -> None:
        """Ask again for whatever is unconfirmed, for ever; sleeps when nothing is."""
        delays = backoff(self._runtime.rng, RETRY_FIRST_S, RETRY_LIMIT_S)
        while True:
            self._wake.clear()
            nodes = await self._catalog.unconfirmed_nodes()
            await asyncio.gather(*(self._ask(node) for node in nodes))
            left = await self._catalog.unconfirmed_nodes()
            if not left:
                delays = backoff(self._runtime.rng, RETRY_FIRST_S, RETRY_LIMIT_S)
            try:
                async with asyncio.timeout(next(delays) if left else None):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time to ask again

    async def ask_all(self, nodes: Iterable[NodeId], *, within_s: float) -> None:
        """Have all of these create what they have not confirmed, those at least that answer in time; the
        others go on with it, and are not asked anew before they are done."""
        for node in sorted(nodes):
            if node not in self._asked:
                task = self._background.spawn(self._ask(node), name=f"assign to {node}")
                self._asked[node] = task
                task.add_done_callback(partial(self._done_asking, node))
        if self._asked:
            await asyncio.wait(list(self._asked.values()), timeout=within_s)

    def _done_asking(self, node: NodeId, _task: asyncio.Task[None]) -> None:
        del self._asked[node]

    async def establish(self, volume: VolumeId, membership: Membership) -> None:
        """Have the group's segments created on a write quorum, better on all six.

        Raises Unavailable if too few nodes confirm in time; asking again goes on from there.
        """
        if await self._standing(volume, membership):
            return
        asked = {
            self._background.spawn(self._ask(member.node), name=f"assign to {member.node}")
            for member in membership.voters
            if member.incarnation
        }
        if asked:
            await asyncio.wait(asked, timeout=ALL_SIX_S)
        try:
            async with asyncio.timeout(QUORUM_S):
                while not await self._standing(volume, membership):
                    asked = {task for task in asked if not task.done()}
                    if not asked:
                        break
                    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass  # decided below
        self.wake()  # whoever has not confirmed yet is asked until it does
        if not await self._standing(volume, membership):
            raise Unavailable(
                f"protection group {membership.pg} does not stand on a write quorum of storage "
                "nodes yet; see which of them are down with `sextet status`"
            )

    async def _standing(self, volume: VolumeId, membership: Membership) -> bool:
        created = (await self._catalog.created(volume)).get(membership.pg, set())
        return write_quorum(membership).satisfied(created)

    async def _ask(self, node: NodeId) -> None:
        """Have one node create what it has not confirmed; failures are left to the next time."""
        wanted = [self._as_possible(node, a) for a in await self._catalog.unconfirmed(node)]
        if not wanted:
            for key in [key for key in self._refusals if key[0] == node]:
                del self._refusals[key]
        for start in range(0, len(wanted), SEGMENTS_PER_CALL):
            if not await self._ask_for(node, wanted[start : start + SEGMENTS_PER_CALL]):
                return

    def _as_possible(self, node: NodeId, wanted: Assignment) -> Assignment:
        refusals = self._refusals[node, wanted.volume, wanted.membership.pg]
        return replace(wanted, fork=None) if refusals >= FORK_REFUSALS else wanted

    def _count_refusals(
        self, node: NodeId, wanted: Sequence[Assignment], refused: Segments
    ) -> None:
        for assignment in wanted:
            key = (assignment.volume, assignment.membership.pg)
            if key not in refused:
                self._refusals.pop((node, *key), None)
            elif assignment.fork is not None and assignment.fork.made:
                self._refusals[node, *key] += 1

    async def _ask_for(self, node: NodeId, wanted: Sequence[Assignment]) -> bool:
        """Whether it answered."""
        member = wanted[0].membership.voter(node)
        assert member is not None, "nobody is assigned what it does not keep"
        request = pb.AssignSegmentsRequest(segments=[assignment_to_pb(a) for a in wanted])
        forks = {(a.volume, a.membership.pg) for a in wanted if a.fork is not None}
        try:
            reply = await self._channels.to(member.address).call(
                ASSIGN_SEGMENTS, request, timeout=FORK_TIMEOUT_S if forks else CALL_TIMEOUT_S
            )
        except SextetError as error:
            log.info("%s cannot be told what to keep yet: %s", node, error)
            return False
        refused = {(r.volume, r.membership.pg) for r in reply.refused}
        self._count_refusals(node, wanted, refused)
        if refused - forks:
            log.error("%s refuses to keep %s", node, sorted(refused - forks))
        if refused & forks:
            log.info("%s cannot fork %s yet", node, sorted(refused & forks))
        kept = [(a.volume, a.membership.pg) for a in wanted]
        self._runtime.steps.before(Step.CONFIRM)
        await self._catalog.confirm(
            node, wanted[0].incarnation, [key for key in kept if key not in refused]
        )
        self._runtime.steps.after(Step.CONFIRM)
        return True
