"""What the active faults mean for one node: pure questions over one reading of the file.

A path is asked about at its receiving end only: what A sends to B is held up, late or on time at B. So
both directions of a path are independent, and it does not matter who called whom.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from engine.faults.file import ActiveFault

OUTSIDE = ""
"""The name of callers that are no node: the command line, a client."""

PARTITION, ONE_WAY, ISOLATE = "partition", "one-way", "isolate"
SLOW_NET, DROP = "slow-net", "drop"
SLOW_DISK, FILL_DISK, FAIL_FSYNC = "slow-disk", "fill-disk", "fail-fsync"
CLOCK_SKEW, KILL = "clock-skew", "kill"

_NETWORK = frozenset({PARTITION, ONE_WAY, ISOLATE, SLOW_NET, DROP})


class FaultTable:
    """The faults that concern `me`, without those of `spent` ids, which have happened here."""

    def __init__(self, me: str, faults: Iterable[ActiveFault], spent: Collection[int] = ()) -> None:
        self._me = me
        mine = [f for f in faults if f.id not in spent]
        self.network = tuple(f for f in mine if f.kind in _NETWORK and self._on_a_path(f))
        """Empty almost always: then no message needs a second look."""
        own = [f for f in mine if me in f.names]
        self.slow_disk = self._first(own, SLOW_DISK)
        self.full_disk = self._first(own, FILL_DISK)
        self.fail_fsync = self._first(own, FAIL_FSYNC)
        self.crashes = tuple(f for f in own if f.kind == KILL and f.step)
        self.isolated = any(f.kind == ISOLATE for f in own)
        """Are clients that speak another protocol than gRPC cut off as well?"""
        skews = [f for f in own if f.kind == CLOCK_SKEW]
        self.skew_us = sum(int(f.param("seconds", 3600.0) * 1e6) for f in skews)

    def _first(self, faults: Iterable[ActiveFault], kind: str) -> ActiveFault | None:
        return next((fault for fault in faults if fault.kind == kind), None)

    def _on_a_path(self, fault: ActiveFault) -> bool:
        """Everybody may be the other end of a fault that is on one side only."""
        return not fault.peers or self._me in fault.names or self._me in fault.peers

    def cut(self, source: str) -> ActiveFault | None:
        """Why nothing from `source` arrives here; None if it does."""
        return next((fault for fault in self.network if self._cuts(fault, source)), None)

    def _cuts(self, fault: ActiveFault, source: str) -> bool:
        me = self._me
        if source == me:
            return False
        match fault.kind:
            case "partition":
                there = source in fault.names and me in fault.peers
                return there or (source in fault.peers and me in fault.names)
            case "one-way":
                return source in fault.names and me in fault.peers
            case "isolate":
                return source in fault.names or me in fault.names
        return False

    def late(self, source: str) -> tuple[ActiveFault, ...]:
        """Every reason why what `source` sends arrives here late."""
        return tuple(
            fault
            for fault in self.network
            if fault.kind in (SLOW_NET, DROP) and self._delays(fault, source)
        )

    def _delays(self, fault: ActiveFault, source: str) -> bool:
        """With peers, only between the two sides."""
        me = self._me
        if source == me:
            return False
        if not fault.peers:
            return source in fault.names or me in fault.names
        there = source in fault.names and me in fault.peers
        return there or (source in fault.peers and me in fault.names)
