"""Who becomes the writer when the one there is is no good. Pure.

The lowest tier first (Aurora's promotion tiers, 0 to 15), then the most caught up, then the lowest
number. Nobody who does not answer is nominated: a failover to nobody is an outage. Who was replaced a
moment ago comes last, whatever its tier, because what was wrong with it may still be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.types import LSN


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance as the control plane last saw it."""

    name: str
    number: int
    tier: int
    read_lsn: LSN
    """The state it shows to readers; 0 if none yet. Recovery loses nothing of what is above it."""
    healthy: bool
    blamed: bool = False
    """It was the writer that was replaced, a moment ago."""


def successor(candidates: Iterable[Candidate], *, instead_of: str) -> str | None:
    """The name of the next writer, None if nobody can be it."""
    able = [c for c in candidates if c.healthy and c.name != instead_of]
    best = min(able, key=lambda c: (c.blamed, c.tier, -c.read_lsn, c.number), default=None)
    return None if best is None else best.name
