"""Each group's last LSN at any read point: what a segment must be complete to, to answer there.

This is why a read needs one segment and no quorum (P17 §4.2.3): the instance saw every record go by.
Of a time before it came it knows one thing: what is complete to a later LSN is complete to an earlier one.
"""

from __future__ import annotations

from bisect import bisect_right

from engine.types import LSN, PgNo

_SLACK = 256
"""Entries below the floor that may pile up before a list is cut; keeps `note` amortised O(1)."""


class PgTails:
    """LSNs of each group's records, ascending, from the lowest read point still in use."""

    def __init__(self) -> None:
        self._lsns: dict[PgNo, list[LSN]] = {}
        self._floor: LSN = 0
        """Every record above it is known, and each group's last one at or below it."""

    def note(self, pg: PgNo, lsn: LSN) -> None:
        """A record of `pg`. Duplicates and older ones than the last are ignored."""
        lsns = self._lsns.setdefault(pg, [])
        if not lsns or lsn > lsns[-1]:
            lsns.append(lsn)
            if len(lsns) > _SLACK and lsns[_SLACK] <= self._floor:
                self._cut(lsns)

    def at(self, pg: PgNo, read_lsn: LSN) -> LSN:
        """The group's last LSN at or below `read_lsn`; 0 if it has none (then it has no pages).

        Of a read point below what is known it is the last one there: that is not below the true one.
        """
        lsns = self._lsns.get(pg)
        if not lsns:
            return 0
        index = bisect_right(lsns, max(read_lsn, self._floor))
        return lsns[index - 1] if index else 0

    def forget_below(self, lsn: LSN) -> None:
        """Read points below `lsn` are rare, or records before it may have been missed."""
        self._floor = max(self._floor, lsn)

    def _cut(self, lsns: list[LSN]) -> None:
        keep_from = bisect_right(lsns, self._floor) - 1  # the tail at the floor itself stays
        if keep_from > 0:
            del lsns[:keep_from]
