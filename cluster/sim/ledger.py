"""What storage nodes have said on the wire, segment by segment: acknowledgements, fences, truncations.

Kept by incarnation, because a node whose disk was replaced owes nothing of what its predecessor said.
Nothing of the node's own state is in it, so it can be held against the node.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from engine.types import LSN, Epoch, NodeId, PgNo, Truncation

WRITE_QUORUM = 4
READ_QUORUM = 3
"""Not the code's own constants: those may be what is wrong."""

Key = tuple[NodeId, str]
"""A node and the incarnation that it speaks as."""


@dataclass
class Said:
    """What one incarnation of a node has said of its segment of a group."""

    claims: dict[Epoch, LSN] = field(default_factory=dict)
    """The highest SCL acknowledged under each epoch."""
    under: dict[int, LSN] = field(default_factory=dict)
    """The same by the group's membership epoch: among which members the acknowledgement counts."""
    last: dict[Epoch, LSN] = field(default_factory=dict)
    """What it acknowledged last under each epoch: less, if it has lost some of it."""
    fenced: Epoch = 0
    truncated: Epoch = 0
    authority: Epoch = 0
    """Of the newest truncation that it has put into force; the first epoch makes none."""
    written: dict[Epoch, LSN] = field(default_factory=dict)
    """The highest SCL that it has written down under each epoch, beside its log."""

    def write_down(self, epoch: Epoch, scl: LSN) -> None:
        self.written[epoch] = max(scl, self.written.get(epoch, 0))

    def must_miss(self, truncations: Iterable[Truncation]) -> LSN:
        """The highest SCL that a later life finds written down and that no recovery has annulled: even
        if its disk has lied about the log, it sees that the log does not reach that far any more.

        A row may be written between a fence and the truncation, so its epoch does not say who wrote the
        redo; but LSNs in a truncated range are never used again.
        """
        ranges = list(truncations)
        kept = (w for w in self.written.values() if not any(t.low < w <= t.high for t in ranges))
        return max(kept, default=0)

    def claim(self, epoch: Epoch, scl: LSN, members: int = 0) -> None:
        self.claims[epoch] = max(scl, self.claims.get(epoch, 0))
        self.under[members] = max(scl, self.under.get(members, 0))
        self.last[epoch] = scl

    def heard(self, epoch: Epoch) -> None:
        """The writer of `epoch` has heard what was said last: from now on no more than that counts."""
        now = self.last[epoch]
        self.claims[epoch] = now
        self.under = {members: min(scl, now) for members, scl in self.under.items()}

    def by(self, members: int) -> LSN:
        """The highest SCL acknowledged up to that membership epoch."""
        return max((scl for epoch, scl in self.under.items() if epoch <= members), default=0)

    def highest(self) -> LSN:
        """The highest SCL ever acknowledged, whatever became of it."""
        return max(self.claims.values(), default=0)

    def reached(self, truncations: Iterable[Truncation]) -> LSN:
        """The highest SCL acknowledged that no recovery has annulled."""
        ranges = list(truncations)
        return max(
            (
                scl
                for epoch, scl in self.claims.items()
                if not any(t.annuls(lsn=scl, epoch=epoch) for t in ranges)
            ),
            default=0,
        )


class Ledger:
    """All that was said, by whom."""

    def __init__(self) -> None:
        self._said: dict[tuple[Key, PgNo], Said] = {}
        self._dropped: dict[tuple[Key, PgNo], Said] = {}

    def of(self, node: NodeId, incarnation: str, pg: PgNo) -> Said:
        return self._said.setdefault(((node, incarnation), pg), Said())

    def told_once(self, node: NodeId, incarnation: str, pg: PgNo) -> Said:
        """As `of`, or what a segment had said before it was dropped and has not been begun anew."""
        place = ((node, incarnation), pg)
        said = self.of(node, incarnation, pg)
        return said if said != Said() else self._dropped.get(place, said)

    def forget(self, key: Key, kept: Container[PgNo]) -> None:
        """Of all groups but those `kept`: the segments were dropped, on purpose. If the node is to keep
        one of them again, it begins it anew and owes nothing of what the earlier one said."""
        for who, pg in [said for said in self._said if said[0] == key and said[1] not in kept]:
            self._dropped[who, pg] = self._said.pop((who, pg))

    def acked_by(self, pg: PgNo, keys: Iterable[Key], members: int) -> LSN:
        """What a write quorum of these has acknowledged up to membership epoch `members`. One that has
        dropped its segment since counts up to the last epoch that it spoke under."""

        def value(key: Key) -> LSN:
            gone = self._dropped.get((key, pg))
            spoke = gone is not None and members <= max(gone.under, default=-1)
            then = gone.by(members) if gone is not None and spoke else 0
            return max(then, self.of(*key, pg).by(members))

        ordered = sorted(map(value, keys), reverse=True)
        return ordered[WRITE_QUORUM - 1] if len(ordered) >= WRITE_QUORUM else 0

    def counted_by(self, pg: PgNo, keys: Iterable[Key], value: Callable[[Said], LSN]) -> LSN:
        """The highest `value` that a write quorum of these has reached in the group, now or before."""
        ordered = sorted((value(self.of(*key, pg)) for key in keys), reverse=True)
        return ordered[WRITE_QUORUM - 1] if len(ordered) >= WRITE_QUORUM else 0


Less = tuple[Key, Epoch, PgNo]
"""Who has said that it has less of which group than it had acknowledged under that epoch."""


@dataclass
class _Stream:
    counting: bool = False
    sent: int = 0
    received: int = 0
    less: list[tuple[int, Less]] = field(default_factory=list)  # and which answer says so


class Hearing:
    """What writers have heard of that, wire by wire, each named by the opener's number of it.

    A writer counts what it hears on the stream of a link, and says so there; the first request cannot.
    Other streams ask something else (whether the epoch still is the newest) and their answers are not in
    order with the link's: what is said on those has reached the writer's host and not what it counts.
    """

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}

    def answered(self, wire: int, less: Iterable[Less] = ()) -> None:
        """A node has sent an answer; it may never arrive."""
        stream = self._streams.setdefault(wire, _Stream())
        stream.sent += 1
        stream.less += [(stream.sent, one) for one in less]

    def received(self, wire: int) -> list[Less]:
        """The next answer has arrived; what is returned counts from now on."""
        stream = self._streams.setdefault(wire, _Stream())
        stream.received += 1
        return self._heard(stream)

    def counts(self, wire: int) -> bool:
        return wire in self._streams and self._streams[wire].counting

    def begins(self, wire: int) -> list[Less]:
        """The writer says that it counts what it has heard there: what is returned, from now on."""
        stream = self._streams.setdefault(wire, _Stream())
        stream.counting = True
        return self._heard(stream)

    def over(self, wire: int) -> None:
        self._streams.pop(wire, None)

    @staticmethod
    def _heard(stream: _Stream) -> list[Less]:
        if not stream.counting:
            return []
        heard = [one for number, one in stream.less if number <= stream.received]
        stream.less = [(number, one) for number, one in stream.less if number > stream.received]
        return heard
