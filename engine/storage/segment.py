"""One segment in memory: its chain, its frames, and which record touches which page.

Pure state: no I/O happens here. Frames' bytes stay in the log; this knows where they are.

Invariants
- `chain.scl` covers only frames that are in the log. The ack waits for the log's sync.
- A record annulled by a truncation that this segment knows is in neither index nor chain, whether it
  came before the truncation or after, or is read back from the log.
- `applied` <= min(SCL, known VDL) and is the LSN of one of the group's records, so page
  versions never hold what a recovery could still annul.
- Frames are kept until `applied` and `floor` have passed them and their log file is deleted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.log.chain import Chain
from engine.log.frame import FrameHeader, RecordRef, index_frame, read_header, trim_frame
from engine.storage.pagestore import SegmentRow
from engine.storage.wal import Location
from engine.types import LSN, CommitMark, Epoch, PageNo, Truncation


@dataclass(slots=True)
class FrameRef:
    """A frame in the log. `last` is that of its last record not annulled; the bytes may hold more."""

    first: LSN
    last: LSN
    prev: LSN
    epoch: Epoch
    location: Location
    runs: tuple[tuple[LSN, LSN, LSN], ...]
    """(first, last, volume predecessor of first) of each stretch of consecutive records."""


@dataclass(frozen=True, slots=True)
class RecordAt:
    """A record of one page: at bytes [offset, end) of the frame `ref`."""

    lsn: LSN
    full: bool
    frame: FrameRef
    record: RecordRef


def trimmed(frame: bytes, header: FrameHeader, truncations: Sequence[Truncation]) -> bytes | None:
    """The frame less its annulled records; None if nothing is left. Usually the frame itself."""
    for t in truncations:
        if header.epoch < t.epoch and header.first_lsn <= t.high and header.last_lsn > t.low:
            # Nothing of an old epoch lies above a truncation's end, so this cuts exactly a tail.
            cut = trim_frame(frame, t.low)
            if cut is None:
                return None
            frame = cut
    return frame


class Segment:
    """One of a node's segments. `row` is what is durable about it, `dirty` that it has changed."""

    def __init__(self, row: SegmentRow) -> None:
        self.row = row
        self.chain = Chain(row.applied)
        self.known_vdl = row.known_vdl
        self.floor = row.floor
        self.frames: list[FrameRef] = []  # by first LSN
        self.index: dict[PageNo, list[RecordAt]] = {}  # by LSN
        self.commits: list[CommitMark] = [row.commit] if row.commit.lsn else []
        self.hot_from = row.applied
        self.uncoalesced_bytes = 0
        self.collected: LSN = 0  # garbage collection has been done up to here
        self.caught_up_with: set[str] = set()

    @property
    def scl(self) -> LSN:
        return self.chain.scl

    @property
    def applied(self) -> LSN:
        return self.row.applied

    @property
    def epoch(self) -> Epoch:
        return self.row.epoch

    def holds(self, header: FrameHeader) -> bool:
        """Whether the frame is here already, in the chain or waiting ahead of a gap."""
        if header.last_lsn <= self.scl:
            return True
        at = bisect_left(self.frames, header.first_lsn, key=lambda f: f.first)
        return at < len(self.frames) and self.frames[at].first == header.first_lsn

    def add(self, header: FrameHeader, frame: bytes, location: Location) -> None:
        """Take in a frame that is in the log and not annulled; `holds` was False."""
        refs = index_frame(frame)
        ref = FrameRef(
            header.first_lsn,
            header.last_lsn,
            header.prev_pg_lsn,
            header.epoch,
            location,
            tuple(_runs(refs)),
        )
        insort(self.frames, ref, key=lambda f: f.first)
        for record in refs:
            entry = RecordAt(record.lsn, record.full, ref, record)
            records = self.index.setdefault(record.page, [])
            if not records or records[-1].lsn < record.lsn:
                records.append(entry)
            else:
                insort(records, entry, key=lambda r: r.lsn)
            if record.commit is not None:
                insort(self.commits, record.commit)
        self.uncoalesced_bytes += len(frame)
        self.chain.offer(header.prev_pg_lsn, header.last_lsn)

    def restore(self, frame: bytes, location: Location) -> None:
        """Take in a frame read back from the log: one whose effect is not in page versions yet, or
        that a reader at an older point may still need."""
        header = read_header(frame)
        at = bisect_left(self.frames, header.first_lsn, key=lambda f: f.first)
        if at < len(self.frames) and self.frames[at].first == header.first_lsn:
            self.frames[at].location = location  # repaired once: the later copy is the good one
        else:
            self.hot_from = min(self.hot_from, header.prev_pg_lsn)
            self.add(header, frame, location)

    def learn_points(self, *, vdl: LSN, pgmrpl: LSN) -> None:
        """A VDL once true stays true; both only grow."""
        if vdl > self.known_vdl:
            self.known_vdl = vdl
            newest = bisect_right(self.commits, vdl, key=lambda c: c.lsn) - 1
            if newest > 0:
                del self.commits[:newest]
        self.floor = max(self.floor, min(pgmrpl, self.known_vdl))

    def newest_commit(self) -> CommitMark:
        """The newest CPL at or below the known VDL."""
        at = bisect_right(self.commits, self.known_vdl, key=lambda c: c.lsn)
        return self.commits[at - 1] if at else self.row.commit

    def tail(self) -> LSN:
        """The last LSN of the chain at or below the known VDL: how far coalescing may go.

        Always a record of this group, so that every complete segment names the same LSN.
        """
        vdl = self.known_vdl
        if self.scl <= vdl:
            return self.scl
        parts = (min(last, vdl) for f in self.frames for first, last, _ in f.runs if first <= vdl)
        return max(self.applied, max(parts, default=0))

    def runs_above_vdl(self) -> Iterator[tuple[LSN, LSN, LSN]]:
        """(first, last, prev) of all records held above the known VDL, gap-free or not."""
        vdl = self.known_vdl
        for frame in self.frames:
            for first, last, prev in frame.runs:
                if last > vdl:
                    yield (first, last, prev) if first > vdl else (vdl + 1, last, vdl)

    def cut(self, truncation: Truncation) -> None:
        """Forget what `truncation` annuls."""
        low, high = truncation.low, truncation.high
        hit = [
            f
            for f in self.frames
            if f.epoch < truncation.epoch and low < f.last and f.first <= high
        ]
        for frame in hit:
            frame.runs = tuple((a, min(b, low), p) for a, b, p in frame.runs if a <= low)
            frame.last = max((b for _, b, _ in frame.runs), default=0)
        self.frames = [f for f in self.frames if f.runs]
        for page in [p for p, records in self.index.items() if records[-1].lsn > low]:
            kept = [
                r for r in self.index[page] if not truncation.annuls(lsn=r.lsn, epoch=r.frame.epoch)
            ]
            if kept:
                self.index[page] = kept
            else:
                del self.index[page]
        self.commits = [c for c in self.commits if not low < c.lsn <= high]
        self._rebuild_chain()

    def _rebuild_chain(self) -> None:
        """Chain again from what is kept: frames behind a cut must not count as gap-free."""
        chain = Chain(self.applied)
        for frame in self.frames:
            chain.offer(frame.prev, frame.last)
        self.chain = chain

    def forget_coalesced(self, bound: LSN) -> None:
        """Drop index entries at or below `bound`: page versions replace them for every reader."""
        for page in list(self.index):
            records = self.index[page]
            if records[0].lsn <= bound:
                kept = records[bisect_right(records, bound, key=lambda r: r.lsn) :]
                if kept:
                    self.index[page] = kept
                else:
                    del self.index[page]

    def forget_file(self, file: int) -> None:
        """A log file was deleted."""
        gone = [f for f in self.frames if f.location.file == file]
        if gone:
            self.hot_from = max(self.hot_from, *(f.last for f in gone))
            self.frames = [f for f in self.frames if f.location.file != file]

    def restart_at(self, as_of: LSN, commit: CommitMark) -> None:
        """After a page copy: everything up to `as_of` stands as page versions, nothing below."""
        self.frames = [f for f in self.frames if f.last > as_of]
        self.index = {
            page: kept
            for page, records in self.index.items()
            if (kept := [r for r in records if r.lsn > as_of])
        }
        self.commits = sorted({c for c in (*self.commits, commit) if c.lsn})
        self.hot_from = max(self.hot_from, as_of)
        self.floor = max(self.floor, as_of)
        self.row = replace(self.row, applied=as_of, floor=self.floor)
        self._rebuild_chain()

    def durable_row(self, *, applied: LSN | None = None) -> SegmentRow:
        """The row that says what this object knows now."""
        return replace(
            self.row,
            applied=self.row.applied if applied is None else applied,
            known_vdl=self.known_vdl,
            floor=self.floor,
            commit=self.newest_commit(),
        )

    def pending_changes(self, upto: LSN) -> dict[PageNo, list[RecordAt]]:
        """Records in (applied, upto] by page, in page order: what coalescing has to apply."""
        found = {}
        for page in sorted(self.index):
            records = self.index[page]
            low = bisect_right(records, self.applied, key=lambda r: r.lsn)
            high = bisect_right(records, upto, key=lambda r: r.lsn)
            if low < high:
                found[page] = records[low:high]
        return found

    def records_between(self, page: PageNo, after: LSN, upto: LSN) -> list[RecordAt]:
        """The page's records in (after, upto], starting at the newest full image among them."""
        records = self.index.get(page, [])
        low = bisect_right(records, after, key=lambda r: r.lsn)
        high = bisect_right(records, upto, key=lambda r: r.lsn)
        for at in range(high - 1, low - 1, -1):
            if records[at].full:
                return records[at:high]
        return records[low:high]


def _runs(refs: Sequence[RecordRef]) -> Iterator[tuple[LSN, LSN, LSN]]:
    start = previous = refs[0]
    for ref in refs[1:]:
        if not ref.prev_lsn == previous.lsn == ref.lsn - 1:
            yield start.lsn, previous.lsn, start.prev_lsn
            start = ref
        previous = ref
    yield start.lsn, previous.lsn, start.prev_lsn
