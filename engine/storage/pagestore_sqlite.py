"""The page-store port over one SQLite file, `node.db`, through aiosqlite.

The file is in WAL mode, so anybody may read it with the sqlite3 shell while the node runs
(docs/inspecting.md). `synchronous=FULL`: what a method returned from survives a power cut.

Two connections, each with a thread of its own: one writes, the other reads, so that a page read does
not queue behind a transaction's fsync. Calls are few and large, since each costs a hop to a thread.

A transaction runs in a task of its own that the caller only waits for. If the caller is cancelled,
the transaction still ends, whole; the next one waits for it.

What a dropped segment leaves free goes back to the file system, a few pages at a time, in the background:
others write in between. Files of before that was so (auto_vacuum 0) keep the room for other segments.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any, TypeAlias

import aiosqlite

from engine.errors import ConfigError, Corrupt, DiskFailed, DiskFull, SextetError
from engine.storage.pagestore import FORMAT_VERSION, PageVersion, SegmentRow, Trim, readable
from engine.types import (
    LSN,
    Ancestor,
    CommitMark,
    Member,
    Membership,
    PageNo,
    Replacement,
    SegmentId,
    Truncation,
    VolumeId,
)
from engine.volume.geometry import first_page

log = logging.getLogger(__name__)

GIVEN_BACK_AT_ONCE = 256
"""Pages of the file that one transaction gives back: others wait for it, and it is a megabyte."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS node (           -- one row: whose disk this is
    name TEXT NOT NULL, incarnation TEXT NOT NULL, format_version INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS segment (        -- as true as at its last writing; the log is ahead
    volume INTEGER NOT NULL, pg INTEGER NOT NULL, incarnation TEXT NOT NULL,
    volume_epoch INTEGER NOT NULL, membership_epoch INTEGER NOT NULL, members TEXT NOT NULL,
    applied_lsn INTEGER NOT NULL, scl INTEGER NOT NULL, known_vdl INTEGER NOT NULL,
    floor_lsn INTEGER NOT NULL,
    commit_lsn INTEGER NOT NULL, commit_time_us INTEGER NOT NULL, commit_pages INTEGER NOT NULL,
    damaged INTEGER NOT NULL,
    ancestry TEXT NOT NULL DEFAULT '[]',    -- of a clone: [[volume, lsn], ...] whose pages it may read
    PRIMARY KEY (volume, pg)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS truncation (     -- low < LSN <= high of an older epoch never happened
    volume INTEGER NOT NULL, epoch INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    PRIMARY KEY (volume, epoch, low, high)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS page_version (   -- a page's bytes as of one record
    volume INTEGER NOT NULL, pg INTEGER NOT NULL, page INTEGER NOT NULL, lsn INTEGER NOT NULL,
    checksum INTEGER NOT NULL, image BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS page_version_key ON page_version (volume, page, lsn, pg);
CREATE VIEW IF NOT EXISTS page AS
    SELECT volume, pg, page, count(*) AS versions, min(lsn) AS oldest_lsn, max(lsn) AS newest_lsn
    FROM page_version GROUP BY volume, pg, page;
CREATE VIEW IF NOT EXISTS segment_summary AS
    SELECT volume, pg, volume_epoch AS epoch, applied_lsn, known_vdl, damaged,
        datetime(commit_time_us / 1000000, 'unixepoch') AS last_commit,
        (SELECT count(*) FROM page_version AS v WHERE v.volume = s.volume AND v.pg = s.pg)
            AS page_versions
    FROM segment AS s;
"""

UPGRADES = {
    1: "ALTER TABLE segment ADD COLUMN ancestry TEXT NOT NULL DEFAULT '[]';",
    2: "",  # the log beside it changed: who knows only 2 would take a new frame for a torn one
}
"""What brings a file of that format version to the next one."""

_PUT_SEGMENT = "INSERT OR REPLACE INTO segment VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_PUT_VERSION = "INSERT OR REPLACE INTO page_version VALUES (?,?,?,?,?,?)"
_NEWEST = """
    SELECT v.page, v.lsn, v.image, v.checksum FROM json_each(?) AS wanted
    CROSS JOIN page_version AS v ON v.volume = ? AND v.page = wanted.value AND v.lsn =
        (SELECT max(lsn) FROM page_version WHERE volume = ? AND page = wanted.value AND lsn <= ?)
"""
"""CROSS JOIN keeps SQLite from looking through the whole volume for each page: it takes a list of unknown
length for a long one."""
_DROP = """
    DELETE FROM page_version WHERE volume = ? AND page = ? AND lsn <
        (SELECT max(lsn) FROM page_version WHERE volume = ? AND page = ? AND lsn <= ?)
"""
_KEPT = """
    AND NOT EXISTS (SELECT 1 FROM json_each(?) AS kept WHERE lsn <= kept.value AND NOT EXISTS
        (SELECT 1 FROM page_version AS newer WHERE newer.volume = page_version.volume
         AND newer.page = page_version.page AND newer.lsn > page_version.lsn
         AND newer.lsn <= kept.value))
"""
"""And it is not the newest of its page at or below any of those LSNs."""
_TRIM = (
    "DELETE FROM page_version WHERE volume = ? AND page >= ? AND page < ? AND pg = ? AND lsn <= ?"
)
_LSN_MAX = (1 << 63) - 1

Step: TypeAlias = tuple[str, Sequence[tuple[Any, ...]]]
"""One statement and the rows of parameters it runs with."""


class SqlitePageStore:
    """`path` is the operating system's, from `Disk.local_path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._giving_back: asyncio.Task[None] | None = None
        self._closing = False
        self._failed: SextetError | None = None  # what nobody waited for has failed

    # -- life

    async def open(self, *, name: str, incarnation: str) -> str:
        await self.close()  # opened before: its threads would outlive it
        try:
            return await self._open(name, incarnation)
        except BaseException:
            await self.close()
            raise

    async def _open(self, name: str, incarnation: str) -> str:
        self._closing, self._failed = False, None
        with _mapped(self._path):
            self._writer = await aiosqlite.connect(self._path, isolation_level=None)
            found = await self._identity()
            if found is not None:
                self._check_identity(found, name)
            else:
                await self._writer.execute("PRAGMA auto_vacuum=INCREMENTAL")
            await self._writer.execute("PRAGMA journal_mode=WAL")
            await self._writer.execute("PRAGMA synchronous=FULL")
            await self._writer.executescript(SCHEMA)
            if found is not None:
                await self._upgrade(found[2])
            if found is None:
                identity = [(name, incarnation, FORMAT_VERSION)]
                await self._transact(("INSERT INTO node VALUES (?,?,?)", identity))
            self._reader = await aiosqlite.connect(self._path, isolation_level=None)
            await self._reader.execute("PRAGMA query_only=1")
        return incarnation if found is None else str(found[1])

    async def _identity(self) -> tuple[str, str, int] | None:
        """(name, incarnation, format version), looked at before anything is written."""
        assert self._writer is not None
        tables = await self._writer.execute_fetchall(
            "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'node'"
        )
        if not list(tables):
            return None
        rows = list(await self._writer.execute_fetchall("SELECT * FROM node"))
        return (rows[0][0], rows[0][1], rows[0][2]) if rows else None

    async def _upgrade(self, version: int) -> None:
        """From format `version` to this program's, each step whole or not at all: what raises in the
        middle of one is rolled back as the connection is closed."""
        assert self._writer is not None
        for old in range(version, FORMAT_VERSION):
            await self._writer.executescript(
                f"BEGIN IMMEDIATE; {UPGRADES[old]}"
                f"UPDATE node SET format_version = {old + 1}; COMMIT;"
            )
            log.info("%s is brought from format version %d to %d", self._path, old, old + 1)

    def _check_identity(self, found: tuple[str, str, int], name: str) -> None:
        if found[2] != FORMAT_VERSION and found[2] not in UPGRADES:
            raise ConfigError(
                f"{self._path} has format version {found[2]}, this program knows {FORMAT_VERSION}; "
                "start the program that wrote it"
            )
        if found[0] != name:
            raise ConfigError(f"{self._path} belongs to {found[0]}, not to {name}")

    async def close(self) -> None:
        self._closing = True
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
        for connection in (self._reader, self._writer):
            if connection is not None:
                await connection.close()
        self._reader = self._writer = None

    # -- metadata

    async def segments(self) -> list[SegmentRow]:
        return [_row(r) for r in await self._all("SELECT * FROM segment ORDER BY volume, pg")]

    async def truncations(self) -> dict[VolumeId, tuple[Truncation, ...]]:
        found: dict[VolumeId, tuple[Truncation, ...]] = {}
        for volume, epoch, low, high in await self._all(
            "SELECT * FROM truncation ORDER BY volume, epoch, low, high"
        ):
            found[volume] = (*found.get(volume, ()), Truncation(epoch, low, high))
        return found

    async def put_segments(
        self,
        rows: Sequence[SegmentRow],
        truncations: Mapping[VolumeId, Sequence[Truncation]] | None = None,
    ) -> None:
        steps: list[Step] = [(_PUT_SEGMENT, [_values(row) for row in rows])]
        for volume, ranges in sorted((truncations or {}).items()):
            values = [(volume, t.epoch, t.low, t.high) for t in ranges]
            steps.append(("DELETE FROM truncation WHERE volume = ?", [(volume,)]))
            steps.append(("INSERT INTO truncation VALUES (?,?,?,?)", values))
        await self._transact(*steps)

    # -- page versions

    async def drop_segment(
        self, segment: SegmentId, *, keep: Sequence[LSN] = (), trims: Sequence[Trim] = ()
    ) -> None:
        every = [Trim(segment, tuple(keep)), *trims]
        await self._transact(
            *(_trim(trim) for trim in every),
            ("DELETE FROM segment WHERE volume = ? AND pg = ?", [(segment.volume, segment.pg)]),
        )
        if self._giving_back is None or self._giving_back.done():
            self._giving_back = asyncio.ensure_future(self._give_back())
            self._running.add(self._giving_back)
            self._giving_back.add_done_callback(self._running.discard)

    async def newest(
        self, segment: SegmentId, pages: Sequence[PageNo], upto: LSN
    ) -> dict[PageNo, PageVersion]:
        found = await self._all(
            _NEWEST, (json.dumps(list(pages)), segment.volume, segment.volume, upto)
        )
        return {page: PageVersion(page, lsn, image, crc) for page, lsn, image, crc in found}

    async def put_versions(
        self, segment: SegmentId, versions: Sequence[PageVersion], row: SegmentRow | None = None
    ) -> None:
        steps: list[Step] = [(_PUT_VERSION, [_version(segment, v) for v in versions])]
        if row is not None:
            steps.append((_PUT_SEGMENT, [_values(row)]))
        await self._transact(*steps)

    async def replace_version(
        self, segment: SegmentId, page: PageNo, lsn: LSN, good: PageVersion
    ) -> None:
        await self._transact(
            (
                "DELETE FROM page_version WHERE volume = ? AND page = ? AND lsn = ?",
                [(segment.volume, page, lsn)],
            ),
            (_PUT_VERSION, [_version(segment, good)]),
        )

    async def drop_superseded(
        self,
        row: SegmentRow,
        floor: LSN,
        pages: Sequence[PageNo] | None,
        *,
        keep: Sequence[LSN] = (),
    ) -> int:
        volume = row.id.volume
        if pages is None:
            found = await self._all(
                "SELECT page FROM page_version WHERE volume = ? AND page >= ? AND page < ?"
                " AND pg = ? GROUP BY page HAVING count(*) > 1",
                (volume, first_page(row.id.pg), first_page(row.id.pg + 1), row.id.pg),
            )
            pages = [page for (page,) in found]
        kept = (json.dumps(list(keep)),) if keep else ()
        dropped = await self._transact(
            (
                _DROP + _KEPT if keep else _DROP,
                [(volume, page, volume, page, floor, *kept) for page in pages],
            ),
            (_PUT_SEGMENT, [_values(row)]),
        )
        return dropped[0]

    async def scan(
        self, after: tuple[VolumeId, PageNo, LSN], limit: int
    ) -> list[tuple[SegmentId, PageVersion]]:
        found = await self._all(
            "SELECT volume, pg, page, lsn, image, checksum FROM page_version"
            " WHERE (volume, page, lsn) > (?,?,?) ORDER BY volume, page, lsn LIMIT ?",
            (*after, limit),
        )
        return [
            (SegmentId(volume, pg), PageVersion(page, lsn, image, crc))
            for volume, pg, page, lsn, image, crc in found
        ]

    async def counts(self) -> dict[SegmentId, tuple[int, int]]:
        found = await self._all(
            "SELECT volume, pg, count(*), count(DISTINCT page) FROM page_version"
            " GROUP BY volume, pg ORDER BY volume, pg"
        )
        return {SegmentId(volume, pg): (versions, pages) for volume, pg, versions, pages in found}

    async def shared_pages(self, row: SegmentRow) -> int:
        if not row.ancestry:
            return 0
        within = (row.id.pg, first_page(row.id.pg), first_page(row.id.pg + 1))
        one = "SELECT page FROM page_version WHERE pg = ? AND page >= ? AND page < ? AND volume = ?"
        sql = " UNION ".join([f"{one} AND lsn <= ?"] * len(row.ancestry))
        values: list[int] = []
        for volume, upto in readable(row.ancestry):
            values += (*within, volume, upto)
        ((count,),) = await self._all(
            f"SELECT count(*) FROM ({sql} EXCEPT {one})", (*values, *within, row.id.volume)
        )
        return int(count)

    async def _give_back(self) -> None:
        """Shorten the file by its free pages until there are none."""
        left: int | None = None
        while not self._closing:
            try:
                free = await self._give_some_back()
            except DiskFull as error:
                log.warning("no room to give room back: %s", error)
                return
            except SextetError as error:
                self._failed = error
                return
            if not free or free == left:  # a file that was made without auto_vacuum gives nothing
                return
            left = free

    async def _give_some_back(self) -> int:
        """How many pages are free after that."""
        async with self._turn:
            db = self._writer
            assert db is not None, "the page store is not open"
            with _mapped(self._path):
                # As a script: this pragma is a row without columns for each page, and execute takes one.
                await db.executescript(f"PRAGMA incremental_vacuum({GIVEN_BACK_AT_ONCE});")
                ((free,),) = await db.execute_fetchall("PRAGMA freelist_count")
        return int(free)

    # -- underneath

    async def _all(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        assert self._reader is not None, "the page store is not open"
        with _mapped(self._path):
            return list(await self._reader.execute_fetchall(sql, values))

    async def _transact(self, *steps: Step) -> list[int]:
        """All steps in one transaction, which a cancelled caller leaves to end by itself; how many
        rows each changed."""
        task = asyncio.ensure_future(self._commit(steps))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _commit(self, steps: Sequence[Step]) -> list[int]:
        async with self._turn:
            if self._failed is not None:
                raise self._failed
            db = self._writer
            assert db is not None, "the page store is not open"
            with _mapped(self._path):
                await db.execute("BEGIN IMMEDIATE")
                try:
                    changed = [
                        (await db.executemany(sql, values)).rowcount if values else 0
                        for sql, values in steps
                    ]
                    await db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:
                        await db.execute("ROLLBACK")
                    raise
            return changed


class _mapped:  # noqa: N801 - reads as a statement: with _mapped(path)
    """Turns SQLite's errors into ours."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise _error(self._path, error) from error


def _error(path: str, error: sqlite3.Error) -> SextetError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"no room for {path}: free space on this disk")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(f"{path} is damaged: {error}")
    return DiskFailed(f"{path}: {error}")


def _version(segment: SegmentId, v: PageVersion) -> tuple[Any, ...]:
    return (segment.volume, segment.pg, v.page, v.lsn, v.checksum, v.image)


def _trim(trim: Trim) -> Step:
    # By page as well: the index has no group, and a volume may have many.
    volume, pg = trim.segment.volume, trim.segment.pg
    upto = _LSN_MAX if trim.above is None else trim.above
    which = (volume, first_page(pg), first_page(pg + 1), pg, upto)
    return (_TRIM + _KEPT, [(*which, json.dumps(trim.at))]) if trim.at else (_TRIM, [which])


def _values(row: SegmentRow) -> tuple[Any, ...]:
    return (
        row.id.volume,
        row.id.pg,
        row.incarnation,
        row.epoch,
        row.membership.epoch,
        _members_to_json(row.membership),
        row.applied,
        row.scl,
        row.known_vdl,
        row.floor,
        row.commit.lsn,
        row.commit.time_us,
        row.commit.pages,
        int(row.damaged),
        json.dumps([(a.volume, a.lsn) for a in row.ancestry]),
    )


def _members_to_json(membership: Membership) -> str:
    """A list of the members; while one is being replaced, an object with that list and the two."""
    return _to_json(membership.members, membership.replacing)


@lru_cache(maxsize=256)
def _to_json(members: tuple[Member, ...], change: Replacement | None) -> str:
    """Most groups have the same ones, and a fence writes the rows of all."""
    listed = [asdict(member) for member in members]
    return json.dumps(listed if change is None else {"members": listed, **asdict(change)})


def _membership(pg: int, epoch: int, value: Any) -> Membership:
    change = None
    if isinstance(value, dict):
        change = Replacement(Member(**value["old"]), Member(**value["new"]))
        value = value["members"]
    return Membership(pg, epoch, tuple(Member(**member) for member in value), change)


def _row(values: Any) -> SegmentRow:
    volume, pg, incarnation, epoch, membership_epoch, members, *rest = values
    applied, scl, known_vdl, floor, commit_lsn, commit_time_us, commit_pages, *rest = rest
    damaged, ancestry = rest
    return SegmentRow(
        id=SegmentId(volume, pg),
        incarnation=incarnation,
        membership=_membership(pg, membership_epoch, json.loads(members)),
        epoch=epoch,
        applied=applied,
        scl=scl,
        known_vdl=known_vdl,
        floor=floor,
        commit=CommitMark(commit_lsn, commit_time_us, commit_pages),
        damaged=bool(damaged),
        ancestry=tuple(Ancestor(volume, lsn) for volume, lsn in json.loads(ancestry)),
    )
