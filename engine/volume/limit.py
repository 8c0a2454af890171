"""The volume's maximum size, and the state *storage-full*: a statement was refused for lack of room.

The state is over once what was refused would fit: the maximum was raised, or rows were deleted. SQLite
keeps the pages of deleted rows in its file, on a free list, and uses them again; its header in page 0
counts them. So room is what the volume may still grow by and what is free inside it.

A meeting with the limit begins at the first refusal and ends with the state. It is over only when there
is some more room than for the one statement, lest a client that deletes a row and inserts two in turn
begin and end a meeting with each. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.log.record import PageChange

HYSTERESIS = 32
"""At least one page in so many of the maximum must be free before the state is over."""

_FREE_AT = 36
"""Where SQLite's header has the number of free pages, four bytes, big-endian."""


def free_pages(changes: Sequence[PageChange]) -> int | None:
    """Pages of SQLite's free list after a commit; None if it did not write the header."""
    for change in changes:
        if change.page == 0:
            return free_in(change.after)
    return None


def free_in(header: bytes) -> int:
    """Pages of SQLite's free list, by page 0."""
    return int.from_bytes(header[_FREE_AT : _FREE_AT + 4], "big")


class StorageLimit:
    """The maximum in pages, and whether the volume has met it.

    `pages`: the volume's size now. `full`: the writer before this one left it storage-full.
    """

    def __init__(self, max_pages: int, pages: int, *, full: bool = False) -> None:
        self.max_pages = max_pages
        self.meetings = 0
        """Meetings that began here: a short one can be noticed afterwards."""
        self._pages = pages
        self._free = 0
        self._need: int | None = 1 if full else None  # the least that was refused
        self._settle()

    @property
    def full(self) -> bool:
        """Whether the volume is storage-full."""
        return self._need is not None

    @property
    def room(self) -> int:
        """Pages that new rows may still take; negative if the maximum was lowered below the size."""
        return self.max_pages - self._pages + self._free

    def refuse(self, pages: int) -> None:
        """A statement was refused that wanted a volume of `pages` pages."""
        # It had used up the free pages before it asked for more.
        need = max(1, pages - self._pages + self._free)
        if self._need is None:
            self.meetings += 1
            self._need = need
        else:
            self._need = min(self._need, need)

    def committed(self, pages: int, free: int | None) -> None:
        """The volume has `pages` pages now, `free` of them on the free list (None: as before)."""
        self._pages = pages
        self._free = self._free if free is None else free
        self._settle()

    def change(self, max_pages: int) -> None:
        """The maximum is another one."""
        self.max_pages = max_pages
        self._settle()

    def _settle(self) -> None:
        if self._need is not None and self.room >= max(self._need, self.max_pages // HYSTERESIS):
            self._need = None
