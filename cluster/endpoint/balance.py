"""Which instance gets the next client. Pure.

Writer endpoint: the current writer, once it has opened the volume, or nobody.

Reader endpoint: of the fit replicas the one with the fewest connections, among equals the one that has
waited longest for a client. A replica is fit while it follows the writer and lags by no more than the
limit. The writer serves when no replica is fit (as Aurora's reader endpoint does); when there is no
writer either, a replica that lags is better than nobody: what it shows is old but was true.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from cluster.endpoint.view import WRITER
from engine.pgwire.handover import CUT_OFF, LAG_MS_MAX, OPEN_WRITER


class Kind(Enum):
    """Which of a cluster's two endpoints a client came in by."""

    WRITER = "writer"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class Load:
    """An instance as the balancer sees it.

    `live`: it is there and does not hang. `state`: what it says of itself, `engine.pgwire.handover`.
    `last_chosen` grows with every choice, 0 = never.
    """

    name: str
    role: str
    live: bool
    connections: int
    last_chosen: int
    state: int

    def fit(self, lag_ms_max: int) -> bool:
        """Whether it can play its role well."""
        if self.role == WRITER:
            return self.live and self.state == OPEN_WRITER
        return self.live and self.state <= min(lag_ms_max, LAG_MS_MAX)


def choose(kind: Kind, loads: Iterable[Load], *, lag_ms_max: int) -> str | None:
    """The instance's name, None if nobody can take the client now."""
    live = [load for load in loads if load.live]
    fit = [load for load in live if load.fit(lag_ms_max)]
    writers = [load for load in fit if load.role == WRITER]
    if kind is Kind.WRITER:
        able = writers
    else:
        replicas = [load for load in fit if load.role != WRITER]
        late = [load for load in live if load.role != WRITER and load.state <= CUT_OFF]
        able = replicas or writers or late
    best = min(able, key=lambda load: (load.connections, load.last_chosen, load.name), default=None)
    return None if best is None else best.name
