"""Pinned read points: which LSNs somebody reads at right now, and how many of them. Pure.

Few are distinct at a time (one per open snapshot at most), so a sorted list is the fastest set that
also answers "the lowest" and "any within this range".
"""

from __future__ import annotations

from bisect import bisect_left, insort

from engine.types import LSN


class Pins:
    """A multiset of LSNs."""

    __slots__ = ("_counts", "_order")

    def __init__(self) -> None:
        self._counts: dict[LSN, int] = {}
        self._order: list[LSN] = []

    def add(self, lsn: LSN) -> None:
        count = self._counts.get(lsn, 0)
        self._counts[lsn] = count + 1
        if not count:
            insort(self._order, lsn)

    def remove(self, lsn: LSN) -> bool:
        """Take back one `add`. True if nobody pins `lsn` any more. KeyError if nobody did."""
        count = self._counts[lsn]
        if count > 1:
            self._counts[lsn] = count - 1
            return False
        del self._counts[lsn]
        del self._order[bisect_left(self._order, lsn)]
        return True

    def lowest(self, default: LSN) -> LSN:
        """The lowest pinned LSN; `default` if there is none."""
        return self._order[0] if self._order else default

    def first_within(self, low: LSN, high: LSN) -> LSN | None:
        """The lowest pinned LSN in [low, high]."""
        at = bisect_left(self._order, low)
        if at < len(self._order) and self._order[at] <= high:
            return self._order[at]
        return None

    def __len__(self) -> int:
        """How many pins there are, equal ones counted each."""
        return sum(self._counts.values())
