"""Archives made without an archiver: a log whose every state is known, cut into chunks at will.

`Ledger` plays the writer, `Book` is one archive of it in a bucket, and what a restore must give.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.sim.objects import Bucket
from cluster.sim.restores import Still
from engine.archive.bases import Base, Part, encode_base, encode_part, index_key, part_key
from engine.archive.catalogue import Target, last_admitted
from engine.archive.chunks import NO_COMMIT, ChunkHead, chunk_key, encode_chunk
from engine.archive.envelope import unseal
from engine.archive.restore import Archive
from engine.log.diff import diff_page
from engine.log.frame import build_frame, encode_record
from engine.types import LAL, LSN, PAGE_SIZE, ZERO_PAGE, CommitMark, PageNo, PgNo

VOLUME = 7
T0_US = 1_700_000_000_000_000
GROUP_PAGES = 4
"""Of a `Ledger`; it is the ledger's own business which group a page is in."""

PART_PAGES = 2


@dataclass(frozen=True)
class Written:
    """One record, encoded."""

    lsn: LSN
    prev: LSN
    prev_pg: LSN
    pg: PgNo
    epoch: int
    page: PageNo
    commit: CommitMark | None
    body: bytes


@dataclass
class Ledger:
    """A log, and the file after each of its commits."""

    epoch: int = 1
    records: list[Written] = field(default_factory=list)
    states: list[tuple[CommitMark, bytes]] = field(default_factory=lambda: [(NO_COMMIT, b"")])
    next: LSN = 1
    pages: dict[PageNo, bytes] = field(default_factory=dict)

    def commit(self, pages: Sequence[PageNo], size: int, time_us: int) -> None:
        """One MTR that changes `pages` and leaves a file of `size` pages."""
        mark = CommitMark(self.next + len(pages) - 1, time_us, size)
        before_size = self.states[-1][0].pages
        for page in pages:
            lsn, pg = self.next, page // GROUP_PAGES
            before = self.pages.get(page) if page < before_size else None
            image = bytearray(before or ZERO_PAGE)
            at = lsn * 97 % (PAGE_SIZE - 16)
            image[at : at + 16] = f"{self.epoch:4}:{lsn:11}".encode()[-16:]
            self.pages[page] = bytes(image)
            full, moves, ranges = diff_page(before, self.pages[page])
            prev = self.records[-1].lsn if self.records else 0
            prev_pg = next((r.lsn for r in reversed(self.records) if r.pg == pg), 0)
            commit = mark if lsn == mark.lsn else None
            body = encode_record(
                lsn=lsn,
                prev_lsn=prev,
                prev_pg_lsn=prev_pg,
                page=page,
                full=full,
                moves=moves,
                ranges=ranges,
                commit=commit,
            )
            self.records.append(Written(lsn, prev, prev_pg, pg, self.epoch, page, commit, body))
            self.next = lsn + 1
        image_now = b"".join(self.pages.get(page, ZERO_PAGE) for page in range(size))
        self.states.append((mark, image_now))

    def branch(self, vdl: LSN) -> Ledger:
        """What the next writer begins with, whose recovery kept what lies at or below `vdl`, a commit."""
        other = Ledger(self.epoch + 1, next=vdl + LAL + 1)
        for record in self.records:
            if record.lsn <= vdl:
                other.records.append(record)
        other.states = [state for state in self.states if state[0].lsn <= vdl]
        image = other.states[-1][1]
        for page in range(len(image) // PAGE_SIZE):
            other.pages[page] = image[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
        return other

    @property
    def marks(self) -> list[CommitMark]:
        return [mark for mark, _ in self.states[1:]]

    def frames(self, ends_here: Callable[[Written], bool]) -> list[bytes]:
        """All records, a frame of each group ending wherever it is said to."""
        open_frames: dict[PgNo, list[Written]] = {}
        found: list[bytes] = []
        for record in self.records:
            gathered = open_frames.setdefault(record.pg, [])
            if gathered and gathered[-1].epoch != record.epoch:
                found.append(frame_of(gathered))
                gathered.clear()
            gathered.append(record)
            if ends_here(record):
                found.append(frame_of(gathered))
                gathered.clear()
        return found + [frame_of(gathered) for gathered in open_frames.values() if gathered]


def frame_of(records: Sequence[Written]) -> bytes:
    return build_frame(
        volume=VOLUME,
        pg=records[0].pg,
        epoch=records[0].epoch,
        prev_pg_lsn=records[0].prev_pg,
        first_lsn=records[0].lsn,
        last_lsn=records[-1].lsn,
        records=[record.body for record in records],
    )


def ledger_of(commits: Iterable[tuple[Sequence[PageNo], int]]) -> Ledger:
    """(pages it changes, its time in seconds) for each commit; the file grows as far as it has to."""
    ledger = Ledger()
    for pages, time_s in commits:
        size = max(ledger.states[-1][0].pages, max(pages) + 1)
        ledger.commit(sorted(set(pages)), size, T0_US + time_s * 1_000_000)
    return ledger


@dataclass
class Book:
    """An archive of a ledger."""

    ledger: Ledger
    name: str
    bucket: Bucket = field(default_factory=lambda: Bucket(random.Random(1)))
    begins: CommitMark = NO_COMMIT
    """The state that it begins with."""

    known_us: int = 0
    upto: LSN = 0
    number: int = 0
    digest: str = ""

    @property
    def objects(self) -> dict[str, bytes]:
        return self.bucket.objects

    def begin_at(self, state: int) -> None:
        """In the middle of the log, with a base."""
        mark = self.ledger.states[state][0]
        self.begins, self.upto = mark, mark.lsn
        self.chunk(mark.lsn)
        self.base()

    def chunk(self, upto: LSN, *, known_us: int = 0) -> None:
        """The next one, of all records up to `upto`, with a frame for each group and epoch that has some,
        and records of before and after it in them as the archiver's have."""
        inside = [r for r in self.ledger.records if self.upto < r.lsn <= upto]
        lo = min((r.lsn for r in inside), default=0) - 2
        hi = max((r.lsn for r in inside), default=0) + 2
        near = [r for r in self.ledger.records if lo <= r.lsn <= hi]
        groups = dict.fromkeys((r.pg, r.epoch) for r in inside)
        frames = [frame_of([r for r in near if (r.pg, r.epoch) == group]) for group in groups]
        commits = [r.commit for r in inside if r.commit is not None]
        newest = max((m for m, _ in self.ledger.states if m.lsn <= upto), key=lambda m: m.lsn)
        self.number += 1
        self.known_us = max(self.known_us, known_us, newest.time_us)
        head = ChunkHead(
            archive=self.name,
            volume=VOLUME,
            number=self.number,
            previous=self.digest,
            after=self.upto,
            upto=upto,
            newest=newest,
            earliest_us=min((c.time_us for c in commits), default=0),
            known_us=self.known_us,
            commits=len(commits),
        )
        self.digest = self._put(
            chunk_key(self.name, self.number), encode_chunk(head, b"".join(frames))
        )
        self.upto = upto

    def base(self) -> bool:
        """One behind the last chunk, if that ends with a commit."""
        mark, image = next(
            (s for s in self.ledger.states if s[0].lsn == self.upto), self.ledger.states[0]
        )
        if not mark.lsn:
            return False
        parts: list[Part] = []
        for first in range(0, mark.pages, PART_PAGES):
            pages = [
                image[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
                for page in range(first, min(mark.pages, first + PART_PAGES))
            ]
            key = part_key(self.name, self.number, len(parts))
            data = encode_part(self.name, self.number, first, pages)
            parts.append(Part(first, len(pages), self._put(key, data)))
        base = Base(self.name, VOLUME, self.number, mark, self.known_us, tuple(parts))
        self._put(index_key(self.name, self.number), encode_base(base))
        return True

    def _put(self, key: str, data: bytes) -> str:
        self.bucket.create(key, data)
        return unseal(key, data).digest

    # -- and back

    async def open(self) -> Archive:
        return await Archive.open(Still(self.bucket), self.name)

    def expected(self, target: Target) -> bytes | None:
        """The file that a restore must give; None if the archive has no such state any more."""
        marks = [m for m in self.ledger.marks if self.begins.lsn <= m.lsn <= self.upto]
        if (target.lsn or 0) > self.upto or (target.time_us or 0) > self.known_us:
            return None
        found = last_admitted(target, marks)
        if found is None:
            return None if self.begins.lsn else b""
        return dict(self.ledger.states)[found]

    async def restored(self, target: Target, folder: Path) -> bytes:
        """What a restore gives. Raises as it does, and then whatever it wrote is away."""
        archive = await self.open()
        path = folder / "restored.db"
        try:
            await archive.restore(await archive.plan(target), path)
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)

    def targets(self) -> list[Target]:
        """Every commit by LSN and by time, just before and just after each, the latest, and outside."""
        found = [Target(), Target(lsn=0), Target(time_us=1), Target(lsn=self.upto + 1)]
        found += [Target(lsn=self.upto), Target(time_us=self.known_us)]
        found.append(Target(time_us=self.known_us + 1))
        for mark in self.ledger.marks:
            found += [Target(lsn=mark.lsn + n) for n in (-1, 0, 1)]
            found += [Target(time_us=mark.time_us + n) for n in (-1, 0, 1)]
        return list(dict.fromkeys(found))


def book_of(
    ledger: Ledger,
    ends: Iterable[LSN],
    *,
    bases: Collection[int] = (),
    begin: int = 0,
    name: str = "main",
    bucket: Bucket | None = None,
) -> Book:
    """Chunks that end at `ends` and the last record; bases behind those of these numbers that can have one;
    beginning with state `begin` of the ledger."""
    book = Book(ledger, name, bucket or Bucket(random.Random(1)))
    if begin:
        book.begin_at(begin)
    last = ledger.records[-1].lsn
    for upto in sorted({end for end in ends if book.upto < end < last} | {last} - {book.upto}):
        book.chunk(upto)
        if book.number in bases:
            book.base()
    return book
