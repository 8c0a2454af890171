"""G3: epochs never fall anywhere, and in each of them at most one writer has a write quorum.

A node that keeps nothing of the volume any more forgets its epoch, too. If it is to keep a segment again
that is a new one: it joins a group of which a write quorum knows the epoch, and is not whole before it has
heard three of those.

An old writer may learn late that its writes had been durable, so the order of epochs among writers
proves nothing; that its commits survived is for `commits` to say.

Kinds: node-epoch-regress, two-writers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.sim.checkers import Findings, Violation
from engine.types import Epoch, NodeId

CHECKER = "epochs"


@dataclass(frozen=True, slots=True)
class Sighting:
    """A storage node's durable epoch of the volume at a moment. A wiped node is another incarnation, and so
    is one that has kept nothing of the volume for a while."""

    at: float
    node: NodeId
    incarnation: str
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Quorum:
    """At `at` a writer's VDL moved: a write quorum had taken in something of `epoch` from it.

    `writer` names one opening of the volume, so that a restarted instance is another writer.
    """

    at: float
    writer: str
    epoch: Epoch


def check(sightings: Iterable[Sighting], quorums: Iterable[Quorum]) -> list[Violation]:
    findings = Findings(CHECKER)
    newest: dict[tuple[NodeId, str], Sighting] = {}
    for seen in sorted(sightings, key=lambda s: s.at):
        before = newest.setdefault((seen.node, seen.incarnation), seen)
        if seen.epoch < before.epoch:
            findings.add(
                "node-epoch-regress",
                f"{seen.node} was at epoch {before.epoch} at {before.at:.6f}s and is at {seen.epoch}",
                nodes=(seen.node,),
                at=seen.at,
            )
        else:
            newest[seen.node, seen.incarnation] = seen
    owners: dict[Epoch, str] = {}
    for quorum in sorted(quorums, key=lambda q: (q.at, q.epoch, q.writer)):
        owner = owners.setdefault(quorum.epoch, quorum.writer)
        if owner != quorum.writer:
            findings.add(
                "two-writers",
                f"{owner} and {quorum.writer} both had a write quorum in epoch {quorum.epoch}",
                nodes=(owner, quorum.writer),
                at=quorum.at,
            )
    return findings.found
