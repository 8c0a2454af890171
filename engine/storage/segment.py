"""One segment in memory: its chain, its frames, and which record touches which page.

Pure state: no I/O happens here. Frames' bytes stay in the log; this knows where they are.

Invariants
- The chain reaches only over frames that are in the log. What of it is durable is `durable_scl`, and
  only that may be acknowledged or written down.
- A record annulled by a truncation that this node knows is in neither index nor chain, whether it
  came before the truncation or after, or is read back from the log.
- `applied` <= min(SCL, known VDL) and is the LSN of one of the group's records: page versions never
  hold what a recovery could still annul.
- A *coalescing point* is a value that `applied` has had: every page has a version as of it. A read at
  R needs the version at the last point at or below R and all records between the two. So garbage
  collection goes from point to point (`floor` is one) and never to an LSN between two: there the
  older version is of no use without the records that would be gone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from engine.log.chain import Chain
from engine.log.frame import RecordRef, index_frame
from engine.log.header import FrameHeader
from engine.storage.loss import Loss
from engine.storage.pagestore import SegmentRow
from engine.storage.walfile import Location
from engine.types import LSN, CommitMark, Epoch, PageNo, PgNo, Truncation

_POINTS_MAX = 64

Run = tuple[LSN, LSN, LSN]
"""(first, last, volume predecessor of first): records without a hole in the numbers."""


@dataclass(slots=True)
class Points:
    """A volume's durable LSN, its minimum read point and how far its log is archived, as all its segments
    on a node know them."""

    vdl: LSN = 0
    pgmrpl: LSN = 0
    archived: LSN = 0


@dataclass(slots=True, eq=False)
class FrameRef:
    """A frame in the log. `last` is that of its last record not annulled; the bytes may hold more."""

    first: LSN
    last: LSN
    prev: LSN
    epoch: Epoch
    location: Location
    runs: tuple[Run, ...]
    """Empty for a frame at or below the floor, which is kept only to be given to peers."""


class RecordAt(NamedTuple):
    """A record of one page: where `record` says it is in the frame."""

    lsn: LSN
    full: bool
    frame: FrameRef
    record: RecordRef


class Segment:
    """One of a node's segments. `row` is what was last written about it, or is about to be."""

    def __init__(self, row: SegmentRow, points: Points) -> None:
        self.row = row
        self.points = points
        self.durable_scl = row.scl
        self.collected_to = row.floor
        """As `floor`, but durable: log files may be deleted up to here."""
        self.coalesced: deque[tuple[LSN, tuple[PageNo, ...] | None]] = deque()
        """Coalescing points above the floor, and the pages that got a version there (None: all)."""
        if row.applied > row.floor:
            self.coalesced.append((row.applied, None))
        self.unheard = False
        """It may have acknowledged what it has lost, and a writer may still count that."""
        self.caught_up_with: set[str] = set()
        self.losses: tuple[Loss, ...] = ()
        """What of the log was found rotten above `applied` when it was read back."""
        self.no_help: dict[str, bool] = {}
        """Members that had nothing for a damaged segment when they were last heard: True for who misses
        something too, False for who reaches no further."""
        self.dropped = False
        """Others keep the group now: nothing about this segment is written any more."""
        self.members_since = row.membership.epoch
        """The membership epoch that is on disk: no newer one is spoken of to others."""
        self.reset()

    def reset(self) -> None:
        """Forget all frames; `restore` brings them back from the log."""
        self.chain = Chain(self.row.applied)
        self.frames: list[FrameRef] = []  # by first LSN
        self.index: dict[PageNo, list[RecordAt]] = {}  # by LSN
        self.commits: list[CommitMark] = [self.row.commit] if self.row.commit.lsn else []
        self.hot_from = self.row.applied
        self.uncoalesced_bytes = 0

    @property
    def pg(self) -> PgNo:
        return self.row.id.pg

    @property
    def scl(self) -> LSN:
        return self.chain.scl

    @property
    def applied(self) -> LSN:
        return self.row.applied

    @property
    def floor(self) -> LSN:
        """No read point below is served."""
        return self.row.floor

    # -- frames in

    def holds(self, header: FrameHeader) -> bool:
        """Whether the frame is here already, in the chain or waiting ahead of a gap."""
        if header.last_lsn <= self.scl:
            return True
        held = self._frame_at(header.first_lsn)
        return held is not None and held.last >= header.last_lsn

    def add(self, header: FrameHeader, records: Sequence[RecordRef], location: Location) -> None:
        """Take in a frame that is in the log and not annulled; `holds` was False.

        `records` are all of its records; none are needed of a frame at or below the floor.
        """
        shorter = self._frame_at(header.first_lsn)
        if shorter is not None:
            self._remove(shorter)
        first, last, prev = header.first_lsn, header.last_lsn, header.prev_pg_lsn
        ref = FrameRef(first, last, prev, header.epoch, location, ())
        if not self.frames or first > self.frames[-1].first:
            self.frames.append(ref)
        else:
            insort(self.frames, ref, key=lambda f: f.first)
        if last > self.floor:
            ref.runs = tuple(self._index(ref, records))
        if last > self.applied:
            self.uncoalesced_bytes += header.length
        self.chain.offer(prev, last)

    def restore(self, header: FrameHeader, frame: bytes, location: Location) -> None:
        """Take in a frame read back from the log. `measure_hot_log` follows the last one."""
        held = self._frame_at(header.first_lsn)
        if held is not None and held.last >= header.last_lsn:
            held.location = location  # repaired once: the later copy is the good one
        else:
            records = index_frame(frame, header) if header.last_lsn > self.floor else ()
            self.add(header, records, location)

    def measure_hot_log(self) -> None:
        """Find out from where on the frames read back can be given to a peer without a hole."""
        low = self.scl
        for frame in reversed(self.frames):
            if frame.last == low:
                low = frame.prev
            elif frame.last < low:
                break
        self.hot_from = min(low, self.applied)

    def _index(self, ref: FrameRef, records: Sequence[RecordRef]) -> Iterator[Run]:
        for record in records:
            entry = RecordAt(record.lsn, record.full, ref, record)
            known = self.index.get(record.page)
            if known is None:
                self.index[record.page] = [entry]
            elif not known or known[-1].lsn < record.lsn:
                known.append(entry)
            else:
                insort(known, entry, key=_lsn)
            if record.commit is not None:
                self._note_commit(record.commit)
        return _runs(records)

    def _note_commit(self, commit: CommitMark) -> None:
        commits = self.commits
        if not commits or commits[-1].lsn < commit.lsn:
            commits.append(commit)
        elif commits[at := bisect_left(commits, commit.lsn, key=_lsn)].lsn != commit.lsn:
            commits.insert(at, commit)  # else it is `row.commit`, read back from the log

    def lost(self) -> list[Loss]:
        """Of `losses` what has not been got back from peers."""
        if not self.row.damaged:
            return []
        return [loss for loss in self.losses if not loss.last or loss.last > self.scl]

    def pages_of(self, ref: FrameRef) -> list[PageNo]:
        """Those that the frame has records of; none if it is at or below the floor."""
        return sorted(
            page for page, records in self.index.items() if any(r.frame is ref for r in records)
        )

    def _frame_at(self, first: LSN) -> FrameRef | None:
        frames = self.frames
        if not frames or first > frames[-1].first:
            return None  # as usual
        at = bisect_left(frames, first, key=lambda f: f.first)
        return frames[at] if frames[at].first == first else None

    def _remove(self, ref: FrameRef) -> None:
        self.frames.remove(ref)
        self._keep_records(lambda r: r.frame is not ref)
        self.commits = [c for c in self.commits if not ref.first <= c.lsn <= ref.last]

    # -- what recovery asks

    def newest_commit(self) -> CommitMark:
        """The newest CPL at or below the known VDL."""
        at = bisect_right(self.commits, self.points.vdl, key=_lsn)
        return self.commits[at - 1] if at else self.row.commit

    def commits_from_vdl(self) -> list[CommitMark]:
        """CPLs above the known VDL, and the newest at or below it."""
        at = bisect_right(self.commits, self.points.vdl, key=_lsn)
        return self.commits[max(0, at - 1) :]

    def commits_within(self, low: LSN, high: LSN) -> list[CommitMark]:
        """CPLs in [low, high], low not below the floor."""
        start = bisect_left(self.commits, low, key=_lsn)
        return self.commits[start : bisect_right(self.commits, high, key=_lsn)]

    def tail(self) -> LSN:
        """The last LSN of the chain at or below the known VDL: how far coalescing may go.

        Always a record of this group, so that every complete segment names the same LSN.
        """
        return max(self.applied, self.tail_at(self.points.vdl))

    def tail_at(self, lsn: LSN) -> LSN:
        """The last LSN of the chain at or below `lsn`, which is not below the floor."""
        if self.scl <= lsn:
            return self.scl
        at = bisect_right(self.frames, lsn, key=lambda f: f.first)
        if not at:
            return self.floor
        frame = self.frames[at - 1]
        below = [min(last, lsn) for first, last, _ in frame.runs if first <= lsn]
        return max(self.floor, below[-1] if below else min(frame.last, lsn))

    def runs_above_vdl(self) -> list[Run]:
        """All records held above the known VDL, gap-free or not, in order."""
        vdl = self.points.vdl
        merged: list[Run] = []
        for frame in self.frames[self._above(vdl) :]:
            for first, last, prev in frame.runs:
                if last <= vdl:
                    continue
                if first <= vdl:
                    first, prev = vdl + 1, vdl
                if merged and merged[-1][1] == prev == first - 1:
                    merged[-1] = (merged[-1][0], last, merged[-1][2])
                else:
                    merged.append((first, last, prev))
        return merged

    def gap_end(self) -> LSN:
        """The last LSN missing in the first gap; 0 if no frame waits ahead of one."""
        at = bisect_right(self.frames, self.scl, key=lambda f: f.first)
        ahead = [f.prev for f in self.frames[at : at + 1] if f.prev > self.scl]
        return ahead[0] if ahead else 0

    # -- frames out

    def cut(self, truncation: Truncation) -> bool:
        """Forget what `truncation` annuls; whether a frame was cut in the middle."""
        low, high = truncation.low, truncation.high
        middle = False
        start = self._above(low)
        tail = self.frames[start:]
        for frame in tail:
            if frame.epoch < truncation.epoch and low < frame.last and frame.first <= high:
                frame.runs = tuple((a, min(b, low), p) for a, b, p in frame.runs if a <= low)
                frame.last = max((b for _, b, _ in frame.runs), default=0)
                middle = middle or frame.last > 0
        self.frames[start:] = [f for f in tail if f.last]
        self._forget_records(truncation)
        at = bisect_right(self.commits, low, key=_lsn)
        self.commits[at:] = [c for c in self.commits[at:] if c.lsn > high]
        self._rebuild_chain(low)
        return middle

    def _above(self, lsn: LSN) -> int:
        """Where in `frames` those begin that hold anything above `lsn`: with a hot log of 100,000 frames
        a recovery must not look at each."""
        at = bisect_right(self.frames, lsn, key=lambda f: f.first)
        while at and self.frames[at - 1].last > lsn:
            at -= 1
        return at

    def _rebuild_chain(self, low: LSN = 0) -> None:
        """Chain again from what is kept: frames behind a cut must not count as gap-free.

        What the chain had reached at or below `low` stays.
        """
        start = self._above(min(low, self.scl))
        reached = self.frames[start - 1].last if start else 0
        self.chain = Chain(max(self.applied, reached))
        for frame in self.frames[start:]:
            self.chain.offer(frame.prev, frame.last)
        self.durable_scl = min(self.durable_scl, self.scl)

    def _keep_records(self, wanted: Callable[[RecordAt], bool]) -> None:
        kept = {page: [r for r in found if wanted(r)] for page, found in self.index.items()}
        self.index = {page: records for page, records in kept.items() if records}

    def _forget_records(self, truncation: Truncation) -> None:
        low = truncation.low
        for page, known in [(p, k) for p, k in self.index.items() if k[-1].lsn > low]:
            at = bisect_right(known, low, key=_lsn)
            known[at:] = [
                r for r in known[at:] if not truncation.annuls(lsn=r.lsn, epoch=r.frame.epoch)
            ]
            if not known:
                del self.index[page]

    def forget_file(self, file: int) -> None:
        """A log file was deleted; all of it is at or below the floor."""
        gone = [f for f in self.frames if f.location.file == file]
        if gone:
            self.hot_from = max(self.hot_from, *(f.last for f in gone))
            self.frames = [f for f in self.frames if f.location.file != file]

    # -- coalescing and collecting

    def pending_changes(self, upto: LSN) -> list[PageNo]:
        """Pages with records in (applied, upto], in order: what coalescing has to bring up."""
        found = []
        for page, records in self.index.items():
            at = bisect_right(records, self.applied, key=_lsn)
            if at < len(records) and records[at].lsn <= upto:
                found.append(page)
        return sorted(found)

    def has_pending(self, records: int) -> bool:
        """Whether a page has so many records above `applied`."""
        applied = self.applied
        return any(
            len(known) >= records and known[-records].lsn > applied for known in self.index.values()
        )

    def changed_pages(self, upto: LSN) -> list[PageNo]:
        """Pages with records at or below `upto` that are not collected yet, in order."""
        return sorted(page for page, records in self.index.items() if records[0].lsn <= upto)

    def reached(self, point: LSN, pages: Sequence[PageNo]) -> None:
        """Coalescing is durable up to `point`, a new version stands for each of `pages`."""
        if point <= self.applied:
            return  # a page copy went further while this was being written
        self.row = replace(self.row, applied=point)
        self.coalesced.append((point, tuple(pages)))
        if len(self.coalesced) > _POINTS_MAX:
            self._thin_out()

    def _thin_out(self) -> None:
        """Of each two neighbours the newer point stays, for the pages of both.

        Not the oldest two over and over: then none would ever be as old as what the floor follows.
        """
        points = list(self.coalesced)
        self.coalesced.clear()
        for at in range(0, len(points) - 1, 2):
            (_, first), (lsn, second) = points[at : at + 2]
            both = None if first is None or second is None else tuple({*first, *second})
            self.coalesced.append((lsn, both))
        if len(points) % 2:
            self.coalesced.append(points[-1])

    def collectable(self, bound: LSN) -> tuple[LSN, list[PageNo] | None] | None:
        """The newest coalescing point at or below `bound` and above the floor, with the pages that
        have got versions up to there (None: any may have); None if there is no such point."""
        passed = [entry for entry in self.coalesced if entry[0] <= bound]
        if not passed:
            return None
        pages: set[PageNo] = set()
        for _, some in passed:
            if some is None:
                return passed[-1][0], None
            pages.update(some)
        return passed[-1][0], sorted(pages)

    def collected(self, point: LSN, pages: Sequence[PageNo] | None) -> None:
        """`point` is the durable floor now: index entries up to it are of no use to any reader.

        `pages`: those that have any, None if that is not known, as `collectable` has said.
        """
        self.row = replace(self.row, floor=max(self.row.floor, point))
        self.collected_to = max(self.collected_to, point)  # a page copy's floor may not be durable
        while self.coalesced and self.coalesced[0][0] <= point:
            self.coalesced.popleft()
        for page in list(self.index) if pages is None else pages:
            records = self.index.get(page, [])
            del records[: bisect_right(records, point, key=_lsn)]
            if not records:
                self.index.pop(page, None)
        self._forget_commits()

    def _forget_commits(self) -> None:
        """Of those at or below the floor the newest stays, for a recovery."""
        del self.commits[: max(0, bisect_right(self.commits, self.floor, key=_lsn) - 1)]

    def raise_floor(self) -> None:
        """Serve nothing below `applied` any more; `collected_to` follows once that is durable."""
        self.row = replace(self.row, floor=max(self.row.floor, self.row.applied))
        self.coalesced = deque([(self.row.applied, None)])
        # The log below may be deleted from now on, so nobody must look for records there.
        self._keep_records(lambda r: r.lsn > self.row.floor)
        self._forget_commits()

    def restart_at(self, as_of: LSN, commit: CommitMark) -> None:
        """After a page copy: everything up to `as_of` stands as page versions, nothing below."""
        self.row = replace(self.row, applied=as_of)
        self.raise_floor()
        self.frames = [f for f in self.frames if f.last > as_of]
        self.commits = sorted({c for c in (*self.commits, commit) if c.lsn})
        self.hot_from = max(self.hot_from, as_of)
        self._rebuild_chain()
        self.durable_scl = max(self.durable_scl, as_of)

    def durable_row(self, *, epoch: Epoch) -> SegmentRow:
        """The row that says what this object knows now."""
        return replace(
            self.row,
            epoch=epoch,
            scl=self.durable_scl,
            known_vdl=max(self.points.vdl, self.row.known_vdl),
            commit=self.newest_commit(),
        )

    # -- reading

    def records_upto(self, page: PageNo, upto: LSN) -> list[RecordAt]:
        """The page's records at or below `upto` that no version as of a coalescing point has yet, from
        the newest full image among them on."""
        records = self.index.get(page, [])
        end = bisect_right(records, upto, key=_lsn)
        start = bisect_right(records, self._point_at(upto), hi=end, key=_lsn)
        for at in range(end - 1, start - 1, -1):
            if records[at].full:
                return records[at:end]
        return records[start:end]

    def _point_at(self, lsn: LSN) -> LSN:
        """The newest coalescing point at or below `lsn`, if any above the floor is known."""
        for point, _ in reversed(self.coalesced):
            if point <= lsn:
                return point
        return self.floor


def _lsn(what: RecordAt | CommitMark) -> LSN:
    return what.lsn


def _runs(records: Sequence[RecordRef]) -> Iterator[Run]:
    start = previous = records[0]
    for record in records[1:]:
        if not record.prev_lsn == previous.lsn == record.lsn - 1:
            yield start.lsn, previous.lsn, start.prev_lsn
            start = record
        previous = record
    yield start.lsn, previous.lsn, start.prev_lsn
