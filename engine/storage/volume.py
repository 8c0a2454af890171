"""What all of a node's segments of one volume share: its epoch, its truncations, its points.

Invariants
- `epoch` never falls. A request of a lower one is refused; so is one of a higher, until a fence or a
  peer has brought it here.
- `truncations` is one recovery's list: the ranges in force as that recovery saw them, and its own.
  `authority` is that recovery's epoch. A list replaces one of a lower authority whole. Uniting them
  would be wrong: a recovery that died after it truncated a single node annulled nothing, and the
  next recovery may have found those very records durable.
- Between a fence and its truncation this node does not know what the epoch annulled: records here
  may never have happened, so nothing is read or taken in from a writer (`settled`).
- The points, VDL, PGMRPL and where the archive ends, only grow: what was durable stays so, and what
  nobody will read nobody will.
- A VDL is taken in only where the truncations of the recovery that it grew under are in force and on
  disk (`knows_recovery`). Without them it would declare durable what they annulled: the annulled
  records lie below it, in no way different from those that count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.errors import BehindEpoch, ProtocolError, StaleEpoch
from engine.log.frame import trim_frame
from engine.log.header import FrameHeader
from engine.storage.segment import Points, Segment
from engine.types import LSN, Epoch, PgNo, Truncation, VolumeId


@dataclass(slots=True)
class Volume:
    """One volume as far as one node keeps it."""

    id: VolumeId
    epoch: Epoch = 0
    truncations: tuple[Truncation, ...] = ()
    recorded: tuple[Truncation, ...] = ()
    """The truncations as they are on disk: a crash goes back to them."""
    points: Points = field(default_factory=Points)
    segments: dict[PgNo, Segment] = field(default_factory=dict)
    """By group, sorted."""
    unheard: bool = False
    """Some of them are: every request of a writer asks, and a volume may have many."""
    frames_cut: int = 0
    """How often a truncation fell into the middle of a frame."""

    def add(self, segment: Segment) -> None:
        self.segments[segment.pg] = segment
        self.segments = dict(sorted(self.segments.items()))
        self.learn_points(vdl=segment.row.known_vdl)

    @property
    def authority(self) -> Epoch:
        """The epoch of the recovery whose truncations these are; 0 if there are none."""
        return max((t.epoch for t in self.truncations), default=0)

    @property
    def settled(self) -> bool:
        """Whether this node knows what its epoch annulled. The first epoch annulled nothing."""
        return self.epoch <= 1 or (self.authority == self.epoch and self.knows_recovery(self.epoch))

    def knows_recovery(self, authority: Epoch) -> bool:
        """Whether what the recovery of epoch `authority` annulled is annulled here, durably."""
        return self.authority >= authority and self.recorded == self.truncations

    def check_epoch(self, epoch: Epoch, *, node: str) -> None:
        """Raises StaleEpoch for a request of an epoch that is over."""
        if epoch < self.epoch:
            raise StaleEpoch(f"{node} is fenced at epoch {self.epoch}, the request has {epoch}")

    def check_same_epoch(self, epoch: Epoch, *, node: str) -> None:
        """Raises StaleEpoch, or BehindEpoch if this node has to be fenced first."""
        self.check_epoch(epoch, node=node)
        if epoch > self.epoch:
            raise BehindEpoch(f"{node} is at epoch {self.epoch}, the request has {epoch}")

    def check_serving(self, epoch: Epoch, *, node: str) -> None:
        """Raises StaleEpoch or BehindEpoch unless redo and reads of `epoch` may be served."""
        self.check_same_epoch(epoch, node=node)
        if not self.settled:
            raise BehindEpoch(f"{node} does not know yet what epoch {epoch} annulled")

    def heard(self) -> None:
        """Every writer of this epoch or a later one counts of this node only what it holds now.

        Damaged segments begin to compare themselves with others anew: what was counted until now stands
        on a write quorum without them, or on three others with them.
        """
        if not self.unheard:
            return
        self.unheard = False
        for segment in self.segments.values():
            if segment.unheard:
                segment.unheard = False
                segment.caught_up_with.clear()

    def learn_points(self, *, vdl: LSN = 0, pgmrpl: LSN = 0, archived: LSN = 0) -> None:
        """Take note of a VDL, a PGMRPL, and of how far the log is archived; older ones are no news."""
        self.points.archived = max(self.points.archived, archived)
        self.points.vdl = max(self.points.vdl, vdl)
        self.points.pgmrpl = max(self.points.pgmrpl, pgmrpl)

    def adopt(self, truncations: Iterable[Truncation]) -> bool:
        """Put a list of a higher or equal authority into force, in memory.

        True if a range that was in force is void now: then what it annulled here counts again, and
        the segments have to be read back from the log. Raises ProtocolError for a list that would
        annul what is durable.
        """
        adopted = tuple(sorted(truncations))
        void = not set(self.truncations) <= set(adopted)
        newest = [t for t in adopted if t not in self.truncations]
        for truncation in newest:
            if truncation.low < self.points.vdl <= truncation.high:
                raise ProtocolError(
                    f"{truncation} would annul LSN {self.points.vdl}, which is durable"
                )
        self.truncations = adopted
        for truncation in newest:
            for segment in self.segments.values():
                self.frames_cut += segment.cut(truncation)
        return void

    def trimmed(self, frame: bytes, header: FrameHeader) -> bytes | None:
        """The frame less its annulled records; None if nothing is left. Usually the frame itself."""
        return trimmed(frame, header, self.truncations)


def trimmed(frame: bytes, header: FrameHeader, truncations: Sequence[Truncation]) -> bytes | None:
    """As `Volume.trimmed`."""
    kept: bytes | None = frame
    for t in truncations:
        if header.epoch < t.epoch and header.first_lsn <= t.high and header.last_lsn > t.low:
            # Nothing of an old epoch lies above a truncation's end, so this cuts exactly a tail.
            kept = trim_frame(frame, t.low)
            if kept is None:
                return None
            frame = kept
    return kept
