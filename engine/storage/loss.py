"""Redo that has rotted away on this disk, in words that an operator can act on.

Rot hits bytes, and a frame's header has a checksum of its own: so mostly it is known which records are
gone, and often of which pages they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.types import LSN, PageNo, PgNo

_PAGES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Loss:
    """Records `first`..`last` of one group; `last` is 0 where nothing says how far the loss goes.

    `pages` is what the rotten bytes still say, so it may be wrong; empty if they say nothing.
    """

    first: LSN
    last: LSN
    pages: tuple[PageNo, ...] = ()

    def text(self, pg: PgNo) -> str:
        redo = f"redo {self.first}..{self.last}" if self.last else f"redo from {self.first} on"
        return f"{redo} of group {pg}{of_pages(self.pages)}"


def of_pages(pages: Sequence[PageNo]) -> str:
    """In brackets, behind a space: the page, or the first few of many. Nothing for none."""
    if not pages:
        return ""
    more = f" and {len(pages) - _PAGES_SHOWN} more" if len(pages) > _PAGES_SHOWN else ""
    shown = ", ".join(map(str, pages[:_PAGES_SHOWN]))
    return f" (page{'s' if len(pages) > 1 else ''} {shown}{more})"
