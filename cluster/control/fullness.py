"""Making an event of a volume's meeting with its maximum, from what its writer says of itself.

The writer decides (`engine.volume.limit`); here it is noted once. The catalog remembers what was noted,
so a control plane that starts again repeats nothing, and the next writer starts with what the last left.
"""

from __future__ import annotations

from cluster.control.catalog import Catalog
from cluster.control.rows import ClusterRow
from engine.net.pb import instance_pb2 as pb
from engine.ports import Clock
from engine.types import Epoch, VolumeId


class FullnessWatch:
    """Give `look` each answer of a writer."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._noted: dict[VolumeId, tuple[Epoch, int, bool]] = {}

    async def look(self, row: ClusterRow, status: pb.InstanceStatusReply) -> None:
        """Note what is new in the answer of an open writer; anybody else's does not count."""
        if status.role != "writer" or status.epoch != row.epoch:
            return
        now = (status.epoch, status.full_meetings, status.storage_full)
        before = self._noted.get(row.volume)
        if now == before:
            return
        if before is not None and not status.storage_full:
            met_before = before[1] if before[0] == status.epoch else 0
            if status.full_meetings > met_before:
                await self._note(row.volume, full=True)  # it began and ended between two looks
        await self._note(row.volume, full=status.storage_full)
        self._noted[row.volume] = now

    async def _note(self, volume: VolumeId, *, full: bool) -> None:
        await self._catalog.note_full(volume, full=full, time_us=self._clock.wall_us())
