"""What the SQL engine needs of the writer's volume (`engine.volume.writer` provides it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from engine.log.record import PageChange
from engine.types import LSN, CommitMark, PageNo

LARGE_COMMIT_PAGES = 8192
"""A commit of so many pages, 32 MiB, is a large one; each page takes it some 30 microseconds."""


class CommitSink(Protocol):
    """Where commits go. A replica has none."""

    async def ready(self) -> None:
        """Wait while back-pressure says so; called before each write transaction."""

    async def reserve(self, pages: int) -> None:
        """Make the volume hold `pages` pages. Raises VolumeFull."""

    async def prepare(self) -> None:
        """A large commit comes; it goes on in the same step of the loop in which this returns."""

    def commit(
        self, changes: Sequence[PageChange], pages: int, free: int | None = None
    ) -> tuple[CommitMark, Mapping[PageNo, LSN]]:
        """One MTR; its mark, and the LSN that each page's new version gets. `free`: pages of SQLite's free
        list, where it is known though page 1 is not among the changes.

        Synchronous and infallible: the last way back is `reserve`.
        """

    async def wait_durable(self, lsn: LSN) -> None:
        """Return once VDL >= `lsn`. The caller applies its own timeout."""
