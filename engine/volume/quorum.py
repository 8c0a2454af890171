"""Quorum sets: expressions over a protection group's members (P18 §4.1).

    4 of 6                      KOf(4, ABCDEF)                        write
    3 of 6                      KOf(3, ABCDEF)                        read
    while G replaces F          AllOf(KOf(4, ABCDEF), KOf(4, ABCDEG)) write
                                AnyOf(KOf(3, ABCDEF), KOf(3, ABCDEG)) read
    full and tail segments      AnyOf(KOf(4, all), KOf(3, full))      write   (P18 §4.2)
                                AllOf(KOf(3, all), KOf(1, full))      read

What makes them quorums is overlap: no write set may miss a read set or another write set.
`overlaps` proves it by enumeration, and the tests do so for every expression used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations

from engine.types import LSN, Membership, NodeId


class QuorumSet(ABC):
    """Which sets of members are enough."""

    @property
    @abstractmethod
    def members(self) -> tuple[NodeId, ...]:
        """Everyone the expression names, sorted."""

    @abstractmethod
    def satisfied(self, present: Collection[NodeId]) -> bool:
        """Whether `present` is a quorum; strangers in it do not count."""

    @abstractmethod
    def reached(self, values: Mapping[NodeId, LSN]) -> LSN:
        """The highest v such that the members with a value >= v are a quorum; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class KOf(QuorumSet):
    """At least `k` of `nodes`."""

    k: int
    nodes: tuple[NodeId, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.k <= len(self.nodes) or len(set(self.nodes)) != len(self.nodes):
            raise ValueError(f"{self.k} of {self.nodes} is no quorum")

    @property
    def members(self) -> tuple[NodeId, ...]:
        return tuple(sorted(self.nodes))

    def satisfied(self, present: Collection[NodeId]) -> bool:
        return sum(node in present for node in self.nodes) >= self.k

    def reached(self, values: Mapping[NodeId, LSN]) -> LSN:
        ordered = sorted([values.get(node, 0) for node in self.nodes], reverse=True)
        return ordered[self.k - 1]


@dataclass(frozen=True, slots=True)
class AllOf(QuorumSet):
    """A quorum of every part."""

    parts: tuple[QuorumSet, ...]

    @property
    def members(self) -> tuple[NodeId, ...]:
        return _union(self.parts)

    def satisfied(self, present: Collection[NodeId]) -> bool:
        return all(part.satisfied(present) for part in self.parts)

    def reached(self, values: Mapping[NodeId, LSN]) -> LSN:
        return min(part.reached(values) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyOf(QuorumSet):
    """A quorum of at least one part."""

    parts: tuple[QuorumSet, ...]

    @property
    def members(self) -> tuple[NodeId, ...]:
        return _union(self.parts)

    def satisfied(self, present: Collection[NodeId]) -> bool:
        return any(part.satisfied(present) for part in self.parts)

    def reached(self, values: Mapping[NodeId, LSN]) -> LSN:
        return max(part.reached(values) for part in self.parts)


def _union(parts: tuple[QuorumSet, ...]) -> tuple[NodeId, ...]:
    return tuple(sorted({node for part in parts for node in part.members}))


COPIES = 6
WRITE = 4
READ = 3


def sixes(membership: Membership) -> tuple[tuple[NodeId, ...], ...]:
    """The group's six; while one is being replaced, the six before and the six afterwards.

    A name stands for whoever may answer under it (`Membership.voters`). A lost life of a disk that is
    being replaced by the next one of the same node has a name that nobody answers to.
    """
    change = membership.replacing
    if change is None:
        return (tuple(m.node for m in membership.members),)
    old = change.old.node
    lost = f"{old}, lost" if change.new.node == old else old
    before = tuple(lost if m.node == old else m.node for m in membership.members)
    after = tuple(change.new.node if m.node == old else m.node for m in membership.members)
    return before, after


def write_quorum(membership: Membership) -> QuorumSet:
    """4 of the group's 6; of both sets while a member is being replaced (P18 §4.1)."""
    parts = tuple(KOf(WRITE, six) for six in sixes(membership))
    return parts[0] if len(parts) == 1 else AllOf(parts)


def read_quorum(membership: Membership) -> QuorumSet:
    """3 of the group's 6, of either set while a member is being replaced: overlaps every write quorum."""
    parts = tuple(KOf(READ, six) for six in sixes(membership))
    return parts[0] if len(parts) == 1 else AnyOf(parts)


def full_tail_write(full: tuple[NodeId, ...], tail: tuple[NodeId, ...]) -> QuorumSet:
    """With three full and three tail segments: 4 of all, or all 3 full ones (P18 §4.2)."""
    return AnyOf((KOf(WRITE, (*full, *tail)), KOf(len(full), full)))


def full_tail_read(full: tuple[NodeId, ...], tail: tuple[NodeId, ...]) -> QuorumSet:
    """... and reads 3 of all with at least one full one among them."""
    return AllOf((KOf(READ, (*full, *tail)), KOf(1, full)))


def overlaps(left: QuorumSet, right: QuorumSet) -> bool:
    """Whether every quorum of `left` shares a member with every quorum of `right`.

    Exhaustive: for each set of members that satisfies `left`, its complement must not satisfy
    `right`. That is 2**n checks, so for tests and for proofs before a membership change.
    """
    everyone = sorted({*left.members, *right.members})
    for size in range(len(everyone) + 1):
        for chosen in combinations(everyone, size):
            rest = set(everyone) - set(chosen)
            if left.satisfied(set(chosen)) and right.satisfied(rest):
                return False
    return True
