"""Statements a second of each replica, from counters that begin anew with each of its lives. Pure."""

from __future__ import annotations

from collections import deque

WINDOW_S = 5.0
"""The rate is an average over so long; a burst shorter than this starts no replica."""


class Rates:
    """Give `note` every counter that is seen."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, deque[tuple[float, int]]]] = {}

    def note(self, name: str, pid: int, count: int, at: float) -> float | None:
        """`count` statements in the life `pid`, seen at `at` (monotonic seconds).

        The rate over the window; None as long as the instance was seen for less than that.
        """
        known = self._seen.get(name)
        if known is None or known[0] != pid or (known[1] and count < known[1][-1][1]):
            known = self._seen[name] = (pid, deque())
        samples = known[1]
        samples.append((at, count))
        while len(samples) > 1 and at - samples[1][0] >= WINDOW_S:
            samples.popleft()
        since, before = samples[0]
        return (count - before) / (at - since) if at - since >= WINDOW_S else None

    def forget_others(self, names: set[str]) -> None:
        """Only these are replicas. One that becomes the writer and a replica again counts anew."""
        for name in self._seen.keys() - names:
            del self._seen[name]
