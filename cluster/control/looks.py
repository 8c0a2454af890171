"""Looking at an instance: asking it how it is, and what its answer means for a failover."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.control.health import Seen
from cluster.control.rows import ClusterRow, InstanceRow
from engine.errors import DeadlineExceeded, SextetError, Unavailable
from engine.net.methods import INSTANCE_STATUS, STORAGE_STATUS
from engine.net.pb import instance_pb2 as ipb
from engine.net.pb import storage_pb2 as spb
from engine.ports import Runtime
from engine.types import Membership, PgNo, VolumeId
from engine.volume.channels import Channels
from engine.volume.quorum import write_quorum

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 0.4

STALLED_US = 1_000_000
"""A writer whose redo in flight has waited for so long has no write quorum, whatever its links say."""

SLOW_SYNC_US = 250_000
"""Whose fdatasync takes so long makes any writer wait."""

FRESH_S = 1.0
"""An older answer says nothing of how an instance is now."""

HEARD_S = 0.6
"""A replica that heard from the writer within this time is a witness; it hears five times a second, and is
asked four times. Whoever was silent for longer than that is not replaced sooner (`health.Patience`)."""

BUSY = frozenset({"importing", "committing"})
"""States of a writer that may say nothing for a while: it has one long computation to do."""

_WRITES = frozenset({"available", *BUSY})
_CAN_TAKE_OVER = frozenset({"available", "disconnected", "joining"})
"""States of a replica that knows its cluster; more than that it does not need."""


@dataclass(frozen=True, slots=True)
class Look:
    """What came of asking an instance, at `at` (monotonic seconds). Without `status`: `mute`."""

    at: float
    status: ipb.InstanceStatusReply | None
    mute: Seen = Seen.SILENT
    storage: bool = True
    """Of a writer that does not work: whether we reach a write quorum of all its groups."""

    def fresh(self, now: float) -> bool:
        return self.status is not None and now - self.at <= FRESH_S

    def as_writer(self, row: ClusterRow) -> Seen:
        """What this shows of the instance that the catalog names as the writer."""
        status = self.status
        if status is None:
            return self.mute
        if status.role != "writer" or status.state not in _WRITES or status.epoch < row.epoch:
            return Seen.RECOVERING  # it may not know its role yet, or not know that it was replaced
        if status.stalled_us >= STALLED_US or not all(q.write for q in status.quorums):
            return Seen.NO_QUORUM
        return Seen.WORKING

    def can_take_over(self, now: float) -> bool:
        """Whether this instance, a replica, may be nominated."""
        return (
            self.fresh(now)
            and self.status is not None
            and self.status.role == "replica"
            and self.status.state in _CAN_TAKE_OVER
        )

    def hears_writer(self, row: ClusterRow, now: float) -> bool:
        """Whether this replica has just heard from the writer that has opened the volume last."""
        status = self.status
        if status is None or status.role != "replica" or status.state != "available":
            return False
        return status.epoch == row.epoch and now - self.at + status.silent_us / 1e6 < HEARD_S

    @property
    def established(self) -> bool:
        """Whether it shows that this cluster has had an open writer."""
        status = self.status
        if status is None:
            return False
        return status.state in _WRITES if status.role == "writer" else status.epoch > 0


class Looker:
    """Asks instances, and storage on behalf of a writer that does not work."""

    def __init__(self, runtime: Runtime, channels: Channels) -> None:
        self._clock = runtime.clock
        self._channels = channels

    async def look(
        self, instance: InstanceRow, row: ClusterRow, memberships: Sequence[Membership]
    ) -> Look:
        """Ask once. Never raises: silence is an answer."""
        look = await self._ask(instance)
        if instance.name != row.writer or look.status is None:
            return look
        if look.as_writer(row) is Seen.WORKING:
            return look
        storage = await self._reaches_storage(row.volume, memberships)
        return replace(look, at=self._clock.monotonic(), storage=storage)

    async def _ask(self, instance: InstanceRow) -> Look:
        status: ipb.InstanceStatusReply | None = None
        mute = Seen.SILENT
        try:
            status = await self._channels.to(instance.address).call(
                INSTANCE_STATUS, ipb.InstanceStatusRequest(), timeout=ASK_TIMEOUT_S
            )
        except DeadlineExceeded:
            pass  # it is silent
        except Unavailable:
            mute = Seen.REFUSED
        except SextetError as error:
            log.warning("%s answers strangely: %s", instance.name, error)
        if status is not None and status.instance != instance.name:
            status = None  # somebody else has its port
        return Look(self._clock.monotonic(), status, mute)

    async def _reaches_storage(self, volume: VolumeId, memberships: Sequence[Membership]) -> bool:
        members = {m.node: m.address for group in memberships for m in group.members}
        nodes = sorted(members)
        answers = await asyncio.gather(*(self._kept_by(members[node], volume) for node in nodes))
        kept = dict(zip(nodes, answers, strict=True))
        return all(
            write_quorum(group).satisfied(
                {m.node for m in group.members if (m.incarnation, group.pg) in kept[m.node]}
            )
            for group in memberships
        )

    async def _kept_by(self, address: str, volume: VolumeId) -> set[tuple[str, PgNo]]:
        """(incarnation, group) of the segments that a node can write to now; none if it is silent.

        Who answers and has another disk than the group counts on is no member of its quorums. Nor is
        one whose disk is stuck: another writer would wait for it just as long.
        """
        try:
            status = await self._channels.to(address).call(
                STORAGE_STATUS, spb.StorageStatusRequest(brief=True), timeout=ASK_TIMEOUT_S
            )
        except SextetError:
            return set()
        if status.state != "up" or status.syncing_us >= SLOW_SYNC_US:
            return set()
        return {(status.incarnation, s.pg) for s in status.segments if s.volume == volume}
