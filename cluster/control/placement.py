"""Which storage nodes keep a new protection group: two in each of three AZs (P17 §2.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import ConfigError
from engine.types import NodeId

AZS_PER_GROUP = 3
MEMBERS_PER_AZ = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A storage node as placement sees it. `known`: it has registered once and is not gone since."""

    node: NodeId
    az: str
    known: bool
    segments: int


def choose_members(candidates: Iterable[Candidate]) -> tuple[NodeId, ...]:
    """Six node names, sorted: per AZ those that are known and have the fewest segments.

    Raises ConfigError if three AZs with two nodes each cannot be found.
    """
    by_az: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_az.setdefault(candidate.az, []).append(candidate)
    able = sorted(az for az, nodes in by_az.items() if len(nodes) >= MEMBERS_PER_AZ)
    if len(able) < AZS_PER_GROUP:
        raise ConfigError(
            f"a protection group needs {MEMBERS_PER_AZ} storage nodes in each of {AZS_PER_GROUP} "
            f"AZs; only {len(able)} AZs have that many"
        )
    able.sort(key=lambda az: (sum(c.segments for c in by_az[az]), az))
    chosen: list[NodeId] = []
    for az in able[:AZS_PER_GROUP]:
        nodes = sorted(by_az[az], key=lambda c: (not c.known, c.segments, c.node))
        chosen += [c.node for c in nodes[:MEMBERS_PER_AZ]]
    return tuple(sorted(chosen))
