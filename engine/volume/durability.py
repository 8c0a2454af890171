"""Durability points: what is durable, from what segments acknowledged (P17 §4.1, P18 §2.3).

PGCL of a group is the highest LSN that a write quorum's SCLs reach. VCL is the highest LSN below
which every record met its group's quorum. It is not the minimum of the PGCLs: a group with nothing
outstanding does not hold the volume back (P18 fig. 3: PGCLs 103 and 104, VCL 104). VDL is the newest
CPL at or below VCL.

Invariants
- VCL and VDL never fall. VDL is always a CPL (or what recovery found).
- An ack can only move what was `sent`; an SCL beyond it is no news about records.
- What a node said last counts, and nothing that it said before: one whose disk has lied is lower now,
  and what it had acknowledged stands on one copy less. What was durable by then stays so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

from engine.types import LSN, CommitMark, NodeId, PgNo
from engine.volume.quorum import QuorumSet


class _Group:
    __slots__ = ("outstanding", "pgcl", "quorum", "scl")

    def __init__(self, quorum: QuorumSet, tail: LSN) -> None:
        self.quorum = quorum
        self.pgcl = tail  # recovery hardened everything at or below it
        self.scl: dict[NodeId, LSN] = {}
        self.outstanding: deque[tuple[LSN, LSN]] = deque()  # frames not yet on a write quorum


class DurabilityTracker:
    """One volume's points. Nothing here waits; the caller acts on what `acked` returns."""

    def __init__(self, vdl: CommitMark) -> None:
        self._groups: dict[PgNo, _Group] = {}
        self._vdl = vdl
        self._vcl: LSN = vdl.lsn
        self._sent: LSN = vdl.lsn  # the highest LSN handed to any group
        self._commits: deque[CommitMark] = deque()  # CPLs above VDL
        self._busy: dict[PgNo, _Group] = {}  # groups with frames outstanding; few at any time
        self._first: LSN | None = None  # first LSN of this epoch; it need not follow the old VDL

    @property
    def vcl(self) -> LSN:
        return self._vcl

    @property
    def vdl(self) -> CommitMark:
        return self._vdl

    def pgcl(self, pg: PgNo) -> LSN:
        return self._groups[pg].pgcl

    def scl(self, pg: PgNo, node: NodeId) -> LSN:
        """What `node` acknowledged for `pg`; 0 if nothing yet."""
        return self._groups[pg].scl.get(node, 0)

    def scls(self, pg: PgNo) -> Mapping[NodeId, LSN]:
        return self._groups[pg].scl

    def add_group(self, pg: PgNo, quorum: QuorumSet, tail: LSN = 0) -> None:
        """A group that joins; everything at or below `tail` in it is durable."""
        if pg in self._groups:
            raise ValueError(f"group {pg} is known already")
        self._groups[pg] = _Group(quorum, tail)

    def set_quorum(self, pg: PgNo, quorum: QuorumSet, *, forget: Collection[NodeId] = ()) -> bool:
        """A membership change: what is durable stays so, what is outstanding needs the new set.

        `forget`: nodes that left, or whose name stands for another life of the disk now; what the segment
        there has acknowledged is nothing that a later one holds. True if VDL moved: the new set may
        need less.
        """
        group = self._groups[pg]
        group.quorum = quorum
        for node in forget:
            group.scl.pop(node, None)
        return self._reached(pg, group)

    def sent(self, pg: PgNo, *, first: LSN, last: LSN) -> None:
        """A frame went to its group.

        All frames of one flush are told before any later ack, and flushes in LSN order; within a
        flush groups may interleave.
        """
        group = self._groups[pg]
        if not first <= last or first <= group.pgcl:
            raise ValueError(f"frame {first}..{last} of group {pg} is out of order")
        group.outstanding.append((first, last))
        self._busy[pg] = group
        if self._first is None or first < self._first:
            self._first = first  # a flush's groups come in any order
        self._sent = max(self._sent, last)

    def committed(self, mark: CommitMark) -> None:
        """A CPL was allotted; in LSN order."""
        if mark.lsn <= (self._commits[-1].lsn if self._commits else self._vdl.lsn):
            raise ValueError(f"commit {mark.lsn} is out of order")
        self._commits.append(mark)

    def acked(self, pg: PgNo, node: NodeId, scl: LSN) -> bool:
        """`node` is complete to `scl` in `pg`; True if VDL moved."""
        group = self._groups[pg]
        before = group.scl.get(node, -1)
        group.scl[node] = scl
        return scl > before and self._reached(pg, group)

    def _reached(self, pg: PgNo, group: _Group) -> bool:
        reached = group.quorum.reached(group.scl)
        if reached <= group.pgcl:
            return False
        group.pgcl = reached
        while group.outstanding and group.outstanding[0][1] <= reached:
            group.outstanding.popleft()
        if not group.outstanding:
            self._busy.pop(pg, None)
        return self._advance()

    def _advance(self) -> bool:
        """VCL up to the lowest record outstanding anywhere, VDL to the newest CPL below it."""
        if self._busy:
            lowest = min([group.outstanding[0][0] for group in self._busy.values()])
            if lowest != self._first:
                self._vcl = max(self._vcl, lowest - 1)
        else:
            self._vcl = max(self._vcl, self._sent)
        moved = False
        while self._commits and self._commits[0].lsn <= self._vcl:
            self._vdl = self._commits.popleft()
            moved = True
        return moved
