"""Words that every layer shares. Pure: nothing here does I/O or knows a clock.

The names are the papers' (P17 = Aurora, SIGMOD 2017; P18 = Aurora, SIGMOD 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

LSN: TypeAlias = int
"""Log sequence number: one per redo record, dense within a volume epoch, 0 = before the log."""

Epoch: TypeAlias = int
"""Volume epoch: grows with every recovery; storage refuses requests of a lower one (P18 §2.4)."""

PageNo: TypeAlias = int
"""Zero-based page number in the volume: SQLite's page n is page n - 1 here."""

PgNo: TypeAlias = int
"""Zero-based protection-group number within a volume."""

VolumeId: TypeAlias = int
NodeId: TypeAlias = str
"""Name of a storage node or instance, e.g. "storage-1" or "main-1"."""

PAGE_SIZE = 4096
"""Bytes per page."""

PAGES_PER_PG = 2560
"""Pages per protection group: 10 MiB, a "mini" of Aurora's 10 GB segments (P17 §2.2)."""

LAL = 10_000_000
"""LSN allocation limit: no LSN above VDL + LAL is ever allotted (P17 §4.2.1)."""

NUMBER_LIMIT = 1 << 63
"""LSNs, epochs, volumes and times stay below: SQLite's integers are signed."""

ZERO_PAGE = bytes(PAGE_SIZE)


@dataclass(frozen=True, slots=True, order=True)
class SegmentId:
    """One of a protection group's six copies, as the node that holds it names it."""

    volume: VolumeId
    pg: PgNo


@dataclass(frozen=True, slots=True, order=True)
class CommitMark:
    """What a CPL record carries besides its page: the end of one MTR (P17 §4.1).

    `time_us` is the commit's wall clock in Unix microseconds; it orders nothing.
    `pages` is the volume's size in pages once this commit is durable.
    """

    lsn: LSN
    time_us: int
    pages: int


@dataclass(frozen=True, slots=True, order=True)
class Ancestor:
    """A volume that another one forked from: of its page versions those up to `lsn` may be read."""

    volume: VolumeId
    lsn: LSN


MAX_ANCESTRY = 16
"""Ancestors of one segment: a read may have to look each of them up."""


@dataclass(frozen=True, slots=True, order=True)
class Truncation:
    """Records with `low` < LSN <= `high` of an epoch below `epoch` never happened (P17 §4.3)."""

    epoch: Epoch
    low: LSN
    high: LSN

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"truncation range ({self.low}, {self.high}] is empty or negative")

    def annuls(self, *, lsn: LSN, epoch: Epoch) -> bool:
        return epoch < self.epoch and self.low < lsn <= self.high


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A protection group's place for one segment.

    `incarnation` names one life of the node's disk: a wiped node comes back as another one and
    neither acks nor votes under the old name.
    """

    node: NodeId
    az: str
    address: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class Replacement:
    """`new` is to take the place of `old`. Both may be of one node: then `old` is a lost life of its
    disk, which can never answer again."""

    old: Member
    new: Member


@dataclass(frozen=True, slots=True)
class Membership:
    """Who keeps one protection group, and since which membership epoch (P18 §4.1).

    `members` are the six. While one of them is being replaced it is still among them, and a quorum is
    one of both sets (`engine.volume.quorum`).
    """

    pg: PgNo
    epoch: int
    members: tuple[Member, ...]
    replacing: Replacement | None = None

    @property
    def voters(self) -> tuple[Member, ...]:
        """Everybody who is to be asked and told, by name, one for each node: a lost life of a disk is
        not among them, whoever is to replace a member is."""
        if self.replacing is None:
            return self.members
        new = self.replacing.new
        others = [m for m in self.members if m.node != new.node]
        return tuple(sorted([*others, new], key=lambda m: m.node))

    def voter(self, node: NodeId) -> Member | None:
        """The life of the node's disk that may answer for this group."""
        return next((m for m in self.voters if m.node == node), None)
