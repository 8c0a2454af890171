"""A redo record: the moves and changed byte ranges of one page, and where it stands in the log (P17 §3.1).

`prev_lsn` and `prev_pg_lsn` are back-links: a segment is complete exactly as far as its group's
chain of back-links reaches, and recovery walks the volume's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from engine.types import LSN, CommitMark, Epoch, PageNo

Ranges: TypeAlias = tuple[tuple[int, bytes], ...]
"""(offset in the page, new bytes), ascending and not overlapping."""

Moves: TypeAlias = tuple[tuple[int, int, int], ...]
"""(offset, length, from): these bytes come from elsewhere in the page, all from it as it was before."""


Changes: TypeAlias = tuple[Moves, Ranges]
"""All that a record does to its page."""


class Record(NamedTuple):
    """One record, decoded. With `commit` it is a CPL: the last record of its MTR (P17 §4.1)."""

    lsn: LSN
    prev_lsn: LSN
    prev_pg_lsn: LSN
    epoch: Epoch
    page: PageNo
    full: bool
    """The ranges apply to a page of zeros, not to the page's older version."""
    ranges: Ranges
    """Laid over the page once `moves` have been made."""
    commit: CommitMark | None = None
    moves: Moves = ()

    @property
    def changes(self) -> Changes:
        return self.moves, self.ranges


class Change(Protocol):
    """What somebody who has the older page needs of a record, decoded or not."""

    @property
    def page(self) -> PageNo: ...

    @property
    def lsn(self) -> LSN: ...

    @property
    def full(self) -> bool: ...

    @property
    def changes(self) -> Changes: ...


@dataclass(frozen=True, slots=True)
class PageChange:
    """What a transaction did to one page; `before` is None for a page that did not exist."""

    page: PageNo
    before: bytes | None
    after: bytes
