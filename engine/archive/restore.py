"""Restoring: from an archive's objects alone to a SQLite file of the state after one commit.

Nothing of the fleet is asked. The file is written while objects are read and checked; whoever asked for it
may use it once `restore` has returned, and not before: on any error it is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from engine.archive.bases import Base, check_base, decode_base, decode_part, index_key, part_key
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
        """Raises ConfigError if there is no such archive. Objects are looked at when they are needed."""
        listing = Listing.of(name, await store.keys(f"{name}/"))
        if not listing.chunks:
            raise ConfigError(f"there is no archive {name} in this store")
        return cls(store, listing)

    @property
    def name(self) -> str:
        return self.listing.archive

    async def chunk(self, number: int) -> Chunk:
        """Raises ObjectMissing, Corrupt, FormatError, naming the object."""
        key = chunk_key(self.name, number)
        return decode_chunk(key, await self._store.read(key))

    async def base(self, number: int) -> Base:
        """Raises ObjectMissing, Corrupt, FormatError, naming the object."""
        key = index_key(self.name, number)
        return decode_base(key, await self._store.read(key))

    async def base_part(self, base: Base, number: int) -> bytes:
        """The pages of one part. Raises ObjectMissing, Corrupt, FormatError, naming the object."""
        key = part_key(self.name, base.number, number)
        return decode_part(key, await self._store.read(key), base, base.parts[number])

    async def first_usable(self) -> int:
        """The chunk behind which a restore can begin: the oldest that has a base, or 0, the empty volume.

        Raises ObjectMissing if there is none, and as `chunk` does.
        """
        there = self.listing.chunks
        if there[0] == 1 and (await self.chunk(1)).head.after == 0:
            return 0
        usable = [n for n in self.listing.bases if n >= there[0]]
        if not usable:
            raise ObjectMissing(
                f"objects before {chunk_key(self.name, there[0])} are missing, and there is no base at it "
                "or later"
            )
        return usable[0]

    async def window(self) -> Window:
        """What can be restored. Raises as `chunk` does."""
        first = await self.first_usable()
        earliest = (await self.base(first)).commit if first else NO_COMMIT
        head = (await self.chunk(self.listing.newest)).head
        return Window(first, earliest, head.newest, head.upto, head.known_us)

    async def plan(self, target: Target) -> Plan:
        """Raises ConfigError naming the window if `target` lies outside of it; as `chunk` and `base` do if
        an object is no good that has to be read.

        By LSN that is what a restore reads, too. By time it is everything after that as well: a later
        commit may have an earlier time, if a clock was wrong.
        """
        return await (self._plan_back(target) if target.lsn is None else self._plan_to(target.lsn))

    async def _plan_back(self, target: Target) -> Plan:
        window = await self.window()
        if (target.time_us or 0) > window.known_us:
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

    async def _plan_to(self, lsn: LSN) -> Plan:
        first = base = await self.first_usable()
        commit = (await self.base(first)).commit if first else NO_COMMIT
        if commit.lsn > lsn:
            raise ConfigError(
                f"that is earlier than what archive {self.name} has: {await self.window()}"
            )
        for number in (n for n in self.listing.bases if n > first):
            later = (await self.base(number)).commit
            if later.lsn > lsn:
                break
            base, commit = number, later
        last, upto = base, commit.lsn
        for number in range(base + 1, self.listing.newest + 1):
            if upto >= lsn:
                break
            chunk = await self.chunk(number)
            upto = chunk.head.upto
            found = last_admitted(Target(lsn=lsn), commits_of(chunk))
            if found is not None:
                last, commit = number, found
        if upto < lsn:
            raise ConfigError(
                f"that is later than what archive {self.name} has: {await self.window()}"
            )
        return Plan(self.name, base, last, commit)

    # -- the file

    async def restore(
        self, plan: Plan, target: Path, progress: Progress = lambda _n, _m: None
    ) -> None:
        """Write the state of `plan` to a new file.

        Every object on the way is checked, and that each follows the one before it. Raises Corrupt,
        FormatError, ObjectMissing, FileExistsError; then there is no file, or it is somebody else's.
        """
        with whole_or_gone(target) as file:
            await self._write(plan, file, progress)

    async def _write(self, plan: Plan, file: BinaryIO, progress: Progress) -> None:
        base = await self.base(plan.base) if plan.base else None
        chunks = range(plan.base + 1, plan.last + 1)
        total, done = len(chunks) + (len(base.parts) if base is not None else 0), 0
        before: Chunk | None = None
        if base is not None:
            before = await self.chunk(base.number)
            check_base(base, before)
            for number, part in enumerate(base.parts):
                file.seek(part.first * PAGE_SIZE)
                file.write(await self.base_part(base, number))
                done += 1
                progress(done, total)
        for number in chunks:
            chunk = await self.chunk(number)
            check_follows(chunk, before)
            _apply(chunk, plan.commit.lsn, _Pages(file))
            before = chunk
            done += 1
            progress(done, total)
        file.truncate(plan.commit.pages * PAGE_SIZE)


@contextmanager
def whole_or_gone(path: Path) -> Iterator[BinaryIO]:
    """A new file, which is removed if the block fails. Raises FileExistsError."""
    with path.open("xb+") as file:
        try:
            yield file
        except BaseException:
            path.unlink()
            raise


PAGES_KEPT = 4096
"""Deflated, a chunk of eight MiB may change very many more."""


class _Pages:
    """The file's pages, those changed kept until `flush`, but for PAGES_KEPT at most."""

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
        if len(self._changed) >= PAGES_KEPT:
            self.flush()

    def flush(self) -> None:
        for page in sorted(self._changed):
            self._file.seek(page * PAGE_SIZE)
            self._file.write(self._changed[page])
        self._changed.clear()


def _apply(chunk: Chunk, upto: LSN, pages: _Pages) -> None:
    """The chunk's records up to `upto`."""
    for record in records_of(chunk):
        if record.lsn > upto:
            break
        pages.put(record.page, apply_record(pages.get(record.page), record))
    pages.flush()


def shown(time_us: int) -> str:
    """A time for a person, in UTC; `sextet restore --to-time` takes it, so nothing of it is cut off."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
