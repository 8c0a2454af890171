"""The hot window: how far into the past storage nodes still serve every commit. Pure.

A writer's PGMRPL is what storage nodes collect garbage by. It stays that far behind, so that for a while
every state can be read as it was: `SET sextet.read_as_of`, `sextet clone --at`, a backtrack of minutes.

Invariants
- A commit stays readable for `seconds` after it became durable, unless redo of more than `redo_bytes` has
  followed it: the log of the window is in the storage nodes' memory, so it has to have an end in bytes too.
- A writer that has just opened does not know what its predecessor's window holds, so it lets go of
  nothing before its own is full.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from engine.types import LSN

STEPS = 32
"""A window moves on by this fraction of itself at a time."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    redo: int
    vdl: LSN


class HotWindow:
    """One open writer's. `now` is seconds of a monotonic clock, `redo` bytes that it has made so far."""

    def __init__(self, seconds: float, redo_bytes: int) -> None:
        self._seconds = seconds
        self._redo_bytes = redo_bytes
        self._samples: deque[_Sample] = deque()

    def begins(self, vdl: LSN, *, now: float, redo: int) -> LSN:
        """The lowest LSN that has to stay readable; 0 while that is not known. `vdl` is durable now.

        A commit that became durable within the window lies at or above it. To be called all the time.
        """
        last = self._samples[-1] if self._samples else None
        if last is None or (
            now - last.at >= self._seconds / STEPS or redo - last.redo >= self._redo_bytes / STEPS
        ):
            self._samples.append(_Sample(now, redo, vdl))
        while len(self._samples) > 1 and self._passed(self._samples[1], now, redo):
            self._samples.popleft()  # only the newest one that has passed matters
        first = self._samples[0]
        return first.vdl if self._passed(first, now, redo) else 0

    def _passed(self, sample: _Sample, now: float, redo: int) -> bool:
        """Whether the window begins at or after it."""
        return now - sample.at >= self._seconds or redo - sample.redo > self._redo_bytes
