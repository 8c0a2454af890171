"""Watching storage nodes, and carrying out what `cluster.control.repairs` decides.

Level-triggered: every pass asks all nodes what they hold, compares it with the catalog, and makes what
differs a little more alike. So it does not matter where a pass ends, or whether this process dies in one:
the next pass, of whichever control plane, goes on from what is there.

Only since when a node has been silent is remembered, in memory: patience with it begins anew with every
start of this process. A control plane that dies more often than that begins no replacement by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.control.assign import CALL_TIMEOUT_S, Assigner
from cluster.control.catalog import Catalog
from cluster.control.repairs import Begin, Cancel, Change, Commit, Node, Seen, plan, telling
from cluster.control.rows import StorageRow
from engine.errors import SextetError
from engine.net.methods import ASSIGN_SEGMENTS, STORAGE_STATUS
from engine.net.pb import storage_pb2 as pb
from engine.ports import Runtime
from engine.steps import Mark, Step
from engine.types import Membership, NodeId, SegmentId, VolumeId
from engine.volume.channels import Channels
from engine.volume.fencing import membership_to_pb

log = logging.getLogger(__name__)


LOST = "lost "
"""How the state of a storage node begins that has lost what no other copy has."""


@dataclass(frozen=True, slots=True)
class RepairConfig:
    """Units are in the names."""

    check_s: float = 1.0
    """Pause between two passes while some node is silent or has something to be put right."""

    busy_s: float = 0.2
    """The same while a member is being replaced."""

    calm_times: int = 2
    """It is so many times as long while all is as it should be. Who registers is looked at at once, and
    the patience with who falls silent (`gone_s`) is far longer."""

    gone_s: float = 30.0
    """A storage node that has been silent for so long is replaced, if there is another one to do it.
    Counted from the first pass of this process that did not hear it."""

    answer_s: float = 1.0
    """A node that has not said by then what it holds is silent."""


class Repairer:
    """`run` is the background task, `check` one pass."""

    def __init__(
        self,
        runtime: Runtime,
        catalog: Catalog,
        channels: Channels,
        assigner: Assigner,
        *,
        changed: Callable[[], None],
        config: RepairConfig | None = None,
    ) -> None:
        self._runtime = runtime
        self._catalog = catalog
        self._channels = channels
        self._assigner = assigner
        self._changed = changed
        self._config = config or RepairConfig()
        self._silent_since: dict[NodeId, float] = {}
        self._lost: dict[NodeId, str] = {}
        self._wake = asyncio.Event()
        self._groups: list[tuple[VolumeId, Membership]] = []
        self._deleted: dict[SegmentId, int] = {}
        self._version = -1
        self.nodes: dict[NodeId, Node] = {}
        """As the last pass saw them."""

    def wake(self) -> None:
        """Something is new: look now."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            changes = await self.check()
            if changes:
                continue  # a change is followed by telling everybody
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time for the next pass
            self._wake.clear()

    def _pause(self) -> float:
        if any(membership.replacing is not None for _, membership in self._groups):
            return self._config.busy_s
        well = all(
            node.answers and not any(seen.damaged for seen in node.segments.values())
            for node in self.nodes.values()
        )
        return self._config.check_s * (self._config.calm_times if well else 1)

    async def check(self) -> int:
        """One pass; how many changes it made."""
        groups = await self.groups()
        nodes = await self._look()
        self.nodes = nodes
        done = 0
        for change in plan(groups, nodes):
            done += await self._carry_out(change)
        if done:
            self._changed()
            self._assigner.wake()
            groups = await self.groups()
        await asyncio.gather(*(self._tell(node, groups) for node in nodes.values() if node.answers))
        return done

    async def groups(self) -> list[tuple[VolumeId, Membership]]:
        """Every group of every volume that is not deleted, as the catalog has it now."""
        version = await self._catalog.version()
        if version != self._version:
            volumes = await self._catalog.volumes()
            self._groups = [
                (volume, membership)
                for volume in [number for number, deleted in volumes.items() if not deleted]
                for membership in await self._catalog.memberships(volume)
            ]
            if any(volumes.values()):
                self._deleted = await self._catalog.deleted()
            self._version = version
        return self._groups

    # -- looking

    async def _look(self) -> dict[NodeId, Node]:
        rows = await self._catalog.storage_nodes()
        drained = await self._catalog.drained()
        nodes = await asyncio.gather(*(self._ask(row) for row in rows))
        return {node.name: replace(node, drained=node.name in drained) for node in nodes}

    async def _ask(self, row: StorageRow) -> Node:
        now = self._runtime.clock.monotonic()
        node = Node(row.name, row.az, row.address, row.incarnation)
        try:
            status = await self._channels.to(row.address).call(
                STORAGE_STATUS, pb.StorageStatusRequest(brief=True), timeout=self._config.answer_s
            )
        except SextetError:
            since = self._silent_since.setdefault(row.name, now)
            return replace(node, gone=now - since >= self._config.gone_s)
        self._silent_since.pop(row.name, None)
        await self._note_loss(row.name, status.state)
        if status.incarnation != row.incarnation:
            return node  # it has not registered with this disk yet
        segments = {
            SegmentId(s.volume, s.pg): Seen(s.incarnation, s.membership_epoch, s.scl, s.damaged)
            for s in status.segments
        }
        return replace(node, answers=True, segments=segments)

    async def _note_loss(self, node: NodeId, state: str) -> None:
        """An event for what a node says no copy has any more: no repair brings it back."""
        lost = state if state.startswith(LOST) else ""
        if lost and lost != self._lost.get(node):
            await self._catalog.record(
                node,
                f"{lost}: it rotted in too many copies, and the volume cannot be opened without it",
                time_us=self._runtime.clock.wall_us(),
            )
        self._lost[node] = lost

    # -- changing

    async def _carry_out(self, change: Change) -> bool:
        """False if the catalog has changed meanwhile."""
        steps, now = self._runtime.steps, self._runtime.clock.wall_us()
        pg = change.known.pg
        match change:
            case Begin(volume, known, old, new):
                steps.before(Step.BEGIN_CHANGE)
                done = await self._catalog.begin_change(
                    volume, known, old=old, new=new, time_us=now
                )
                steps.after(Step.BEGIN_CHANGE)
                log.info("= group %d: %s is to replace %s", pg, new.node, old.node)
            case Commit(volume, known):
                steps.before(Step.COMMIT_CHANGE)
                done = await self._catalog.commit_change(volume, known, time_us=now)
                steps.after(Step.COMMIT_CHANGE)
                steps.mark(Mark.SEGMENT_REPLACED)
                log.info("= group %d has its new member", pg)
            case Cancel(volume, known, why):
                steps.before(Step.CANCEL_CHANGE)
                done = await self._catalog.cancel_change(volume, known, time_us=now)
                steps.after(Step.CANCEL_CHANGE)
                steps.mark(Mark.REPLACEMENT_CANCELLED)
                log.info("= group %d keeps its old member: %s", pg, why)
        return done

    async def _tell(self, node: Node, groups: list[tuple[VolumeId, Membership]]) -> None:
        """Memberships to who keeps the groups; who is silent is told in a later pass, or by a writer."""
        news = telling(groups, node, self._deleted)
        if not news.update and not news.drop:
            return
        request = pb.AssignSegmentsRequest()
        for volume, membership in news.update:
            voter = membership.voter(node.name)
            assert voter is not None, "only members are told"
            request.segments.add(
                volume=volume,
                membership=membership_to_pb(membership),
                incarnation=voter.incarnation,
            )
        for volume, membership in news.drop:
            request.segments.add(volume=volume, membership=membership_to_pb(membership), drop=True)
        try:
            await self._channels.to(node.address).call(
                ASSIGN_SEGMENTS, request, timeout=CALL_TIMEOUT_S
            )
        except SextetError as error:
            log.info("%s cannot be told who keeps what yet: %s", node.name, error)
