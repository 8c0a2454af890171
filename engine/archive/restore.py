"""Restoring: from an archive's objects alone to a SQLite file of the state after one commit.

Nothing of the fleet is asked. The file is written while objects are read and checked; whoever asked for it
may use it once `restore` has returned, and not before: on any error it is as good as not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from engine.archive.bases import Base, decode_base, decode_part, index_key, part_key
from engine.archive.catalogue import Listing, Target, last_admitted
from engine.archive.chunks import (
    NO_COMMIT,
    Chunk,
    check_follows,
    chunk_key,
    commits_of,
    decode_chunk,
    records_of,
)
from engine.errors import ConfigError, ObjectMissing
from engine.log.apply import apply_record
from engine.ports import ObjectStore
from engine.types import LSN, PAGE_SIZE, CommitMark, PageNo

Progress = Callable[[int, int], None]
"""(objects read, objects to read)"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Base `base` (0: the empty volume), then chunks up to `last`, up to `commit` and no further."""

    archive: str
    base: int
    last: int
    commit: CommitMark


@dataclass(frozen=True, slots=True)
class Window:
    """What an archive can restore: from the state at `earliest` to that at `newest`, with nothing else
    committed until `known_us`. `first`: see `Archive.first_usable`; `upto`: where the log ends."""

    first: int
    earliest: CommitMark
    newest: CommitMark
    upto: LSN
    known_us: int

    def __str__(self) -> str:
        begin = (
            f"{shown(self.earliest.time_us)} (LSN {self.earliest.lsn})"
            if self.first
            else "the beginning"
        )
        return f"{begin} to {shown(self.known_us)} (LSN {self.upto})"


class Archive:
    """One archive in a store, for reading. Make it with `Archive.open`."""

    def __init__(self, store: ObjectStore, listing: Listing) -> None:
        self.listing = listing
        self._store = store

    @classmethod
    async def open(cls, store: ObjectStore, name: str) -> Archive:
        """Raises ConfigError if there is no such archive, ObjectMissing for a hole in it."""
        listing = Listing.of(name, await store.keys(f"{name}/"))
        if not listing.chunks:
            raise ConfigError(f"there is no archive {name} in this store")
        archive = cls(store, listing)
        listing.check_gapless(max(1, await archive.first_usable()))
        return archive

    @property
    def name(self) -> str:
        return self.listing.archive

    async def read(self, key: str) -> bytes:
        """Raises ObjectMissing, Unavailable."""
        return await self._store.read(key)

    async def chunk(self, number: int) -> Chunk:
        """Raises ObjectMissing, Corrupt, FormatError, naming the object."""
        key = chunk_key(self.name, number)
        return decode_chunk(key, await self._store.read(key))

    async def base(self, number: int) -> Base:
        """Raises ObjectMissing, Corrupt, FormatError, naming the object."""
        key = index_key(self.name, number)
        return decode_base(key, await self._store.read(key))

    async def first_usable(self) -> int:
        """The chunk behind which a restore can begin: the oldest that has a base, or 0, the empty volume.

        Raises ObjectMissing if there is none.
        """
        there = self.listing.chunks
        if there[0] == 1 and (await self.chunk(1)).head.after == 0:
            return 0
        usable = [n for n in self.listing.bases if n >= there[0]]
        if not usable:
            raise ObjectMissing(
                f"archive {self.name} begins with chunk {there[0]} and has no base at it or later"
            )
        return usable[0]

    async def window(self) -> Window:
        """What can be restored. Raises as `chunk` does."""
        first = await self.first_usable()
        earliest = (await self.base(first)).commit if first else NO_COMMIT
        head = (await self.chunk(self.listing.newest)).head
        return Window(first, earliest, head.newest, head.upto, head.known_us)

    async def plan(self, target: Target) -> Plan:
        """Raises ConfigError naming the window if `target` lies outside of it."""
        window = await self.window()
        if (target.time_us or 0) > window.known_us or (target.lsn or 0) > window.upto:
            raise ConfigError(f"that is later than what archive {self.name} has: {window}")
        after: Chunk | None = None
        for number in range(self.listing.newest, window.first, -1):
            chunk = await self.chunk(number)
            if after is not None:
                check_follows(after, chunk)
            commit = last_admitted(target, commits_of(chunk))
            if commit is not None:
                return Plan(self.name, self.listing.base_for(number - 1), number, commit)
            after = chunk
        if window.first and not target.admits(window.earliest):
            raise ConfigError(f"that is earlier than what archive {self.name} has: {window}")
        return Plan(self.name, window.first, window.first, window.earliest)

    # -- the file

    async def restore(
        self, plan: Plan, target: Path, progress: Progress = lambda _n, _m: None
    ) -> None:
        """Write the state of `plan` to a new file.

        Every object on the way is checked, and that each follows the one before it. Raises Corrupt,
        FormatError, ObjectMissing, FileExistsError.
        """
        base = await self.base(plan.base) if plan.base else None
        chunks = range(plan.base + 1, plan.last + 1)
        total, done = len(chunks) + (len(base.parts) if base is not None else 0), 0
        with target.open("xb+") as file:
            at: LSN = 0
            if base is not None:
                for number, part in enumerate(base.parts):
                    key = part_key(self.name, base.number, number)
                    file.seek(part.first * PAGE_SIZE)
                    file.write(decode_part(key, await self._store.read(key), base, part))
                    done += 1
                    progress(done, total)
                at = base.commit.lsn
            before = await self.chunk(plan.base) if plan.base else None
            for number in chunks:
                chunk = await self.chunk(number)
                if before is not None:
                    check_follows(chunk, before)
                at = _apply(chunk, at, plan.commit.lsn, _Pages(file))
                before = chunk
                done += 1
                progress(done, total)
            file.truncate(plan.commit.pages * PAGE_SIZE)


class _Pages:
    """The file's pages, those changed kept until `flush`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._changed: dict[PageNo, bytes] = {}

    def get(self, page: PageNo) -> bytes:
        found = self._changed.get(page)
        if found is None:
            self._file.seek(page * PAGE_SIZE)
            found = self._file.read(PAGE_SIZE)
            found += bytes(PAGE_SIZE - len(found))
        return found

    def put(self, page: PageNo, image: bytes) -> None:
        self._changed[page] = image

    def flush(self) -> None:
        for page in sorted(self._changed):
            self._file.seek(page * PAGE_SIZE)
            self._file.write(self._changed[page])
        self._changed.clear()


def _apply(chunk: Chunk, at: LSN, upto: LSN, pages: _Pages) -> LSN:
    """The chunk's records above `at` and up to `upto`; the last one's LSN."""
    for record in records_of(chunk):
        if record.lsn <= at:
            continue
        if record.lsn > upto:
            break
        pages.put(record.page, apply_record(pages.get(record.page), record))
        at = record.lsn
    pages.flush()
    return at


def shown(time_us: int) -> str:
    """A time for a person, in UTC."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds")
