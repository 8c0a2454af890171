"""What all clients of a run were told, as it comes in, and what can be counted of it.

The history is the simulator's (`cluster.sim.history`), with real seconds since the run began.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cluster.sim.history import Append, History, Outcome, Transaction

TRANSACTIONS_MAX = 150_000
"""A run ends its workload before its history is longer: it is all kept in memory."""

KEYS = 6
APPENDS_PER_GENERATION = 240
"""Then clients turn to new lists: every read is of a whole list, and lists must not grow for ever."""


@dataclass(slots=True)
class Recorder:
    """`clock` gives seconds since the run began, from one monotonic clock for all clients."""

    clock: Callable[[], float]
    limit: int = TRANSACTIONS_MAX
    history: History = field(default_factory=History)
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """By SQLSTATE; "lost" is a connection that ended without one."""
    acknowledged: list[float] = field(default_factory=list)
    """When writing transactions were acknowledged, ascending."""
    refused: int = 0
    """Connections that could not be had."""
    _values: int = 0

    @property
    def full(self) -> bool:
        return len(self.history) >= self.limit

    def value(self) -> int:
        """One that was never appended before."""
        self._values += 1
        return self._values

    def key(self, rng: random.Random) -> str:
        """A list of today; now and then one of yesterday, so that old pages are read again."""
        generation = self._values // APPENDS_PER_GENERATION
        if generation and rng.random() < 0.1:
            generation -= 1
        return f"g{generation}.{rng.randrange(KEYS)}"

    def record(self, transaction: Transaction, *, wrote: bool, error: str = "") -> None:
        """`wrote`: it was acknowledged and changed something. `error`: why it did not end well."""
        self.history.append(transaction)
        self.outcomes[transaction.outcome.value] += 1
        if error:
            self.errors[error] += 1
        if wrote and transaction.outcome is Outcome.COMMITTED:
            self.acknowledged.append(transaction.completed_at)

    @property
    def keys(self) -> list[str]:
        """Every list that anybody ever meant to append to."""
        return sorted({op.key for t in self.history for op in t.ops if isinstance(op, Append)})


def longest_gap(acknowledged: Sequence[float], start: float, end: float) -> tuple[float, float]:
    """The longest time in [start, end] without an acknowledged commit, as (from, to)."""
    moments = [start, *(at for at in acknowledged if start < at < end), end]
    gaps = ((b - a, a, b) for a, b in pairwise(moments))
    _, first, last = max(gaps, key=lambda gap: gap[0])
    return first, last
