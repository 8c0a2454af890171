"""Which instance gets the next client. Pure.

Writer endpoint: the current writer or nobody. Reader endpoint: the replica with the fewest
connections, among equals the one that has waited longest for a client, the writer if no replica
lives (as Aurora's reader endpoint does).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from cluster.endpoint.view import WRITER


class Kind(Enum):
    """Which of a cluster's two endpoints a client came in by."""

    WRITER = "writer"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class Load:
    """An instance as the balancer sees it. `last_chosen` grows with every choice, 0 = never."""

    name: str
    role: str
    live: bool
    connections: int
    last_chosen: int


def choose(kind: Kind, loads: Iterable[Load]) -> str | None:
    """The instance's name, None if nobody can take the client now."""
    live = [load for load in loads if load.live]
    writers = [load for load in live if load.role == WRITER]
    replicas = [load for load in live if load.role != WRITER]
    able = replicas or writers if kind is Kind.READER else writers
    best = min(able, key=lambda load: (load.connections, load.last_chosen, load.name), default=None)
    return None if best is None else best.name
