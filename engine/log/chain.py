"""A segment's chain of frames: how far it reaches without a gap (SCL, P17 §4.2.1).

Each frame names the group's record before its first. Frames may come in any order and more than
once; those ahead of a gap wait. SCL never falls except by `cut`, when a recovery truncated.
"""

from __future__ import annotations

from engine.types import LSN


class Chain:
    """`scl` is the gap-free bound; `pending` counts the frames waiting ahead of a gap."""

    __slots__ = ("_waiting", "scl")

    def __init__(self, tail: LSN = 0) -> None:
        self.scl = tail
        self._waiting: dict[LSN, LSN] = {}  # predecessor -> last LSN of the frame after it

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def offer(self, prev_pg_lsn: LSN, last_lsn: LSN) -> bool:
        """Take note of a frame; True if SCL moved. Duplicates and overlaps change nothing."""
        if last_lsn <= self.scl:
            return False
        if prev_pg_lsn > self.scl:
            known = self._waiting.get(prev_pg_lsn, 0)
            self._waiting[prev_pg_lsn] = max(known, last_lsn)
            return False
        self.scl = last_lsn
        while self._waiting:
            following = self._waiting.pop(self.scl, None)
            if following is None:
                break
            self.scl = following
        return True

    def cut(self, upto: LSN) -> None:
        """Forget everything above `upto`: a truncation annulled it."""
        self.scl = min(self.scl, upto)
        self._waiting = {p: min(last, upto) for p, last in self._waiting.items() if p < upto}
