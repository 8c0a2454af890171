"""What the SQL engine needs of the writer's volume (`engine.volume.writer` provides it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from engine.log.record import PageChange
from engine.types import LSN, CommitMark, PageNo


class CommitSink(Protocol):
    """Where commits go. A replica has none."""

    async def ready(self) -> None:
        """Wait while back-pressure says so; called before each write transaction."""

    async def reserve(self, pages: int) -> None:
        """Make the volume hold `pages` pages. Raises VolumeFull."""

    def commit(
        self, changes: Sequence[PageChange], pages: int
    ) -> tuple[CommitMark, Mapping[PageNo, LSN]]:
        """One MTR; its mark, and the LSN that each page's new version gets.

        Synchronous and infallible: the last way back is `reserve`.
        """

    async def wait_durable(self, lsn: LSN) -> None:
        """Return once VDL >= `lsn`. The caller applies its own timeout."""
