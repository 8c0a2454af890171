"""The page-store port over one SQLite file, `node.db`, through aiosqlite.

The file is in WAL mode, so anybody may read it with the sqlite3 shell while the node runs
(docs/inspecting.md). `synchronous=FULL`: what a method returned from survives a power cut. aiosqlite
owns a thread; calls are few and large.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import aiosqlite

from engine.errors import ConfigError, Corrupt, DiskFailed, DiskFull, SextetError
from engine.storage.pagestore import FORMAT_VERSION, PageVersion, SegmentRow
from engine.types import (
    LSN,
    CommitMark,
    Member,
    Membership,
    PageNo,
    SegmentId,
    Truncation,
    VolumeId,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS node (
    name TEXT NOT NULL, incarnation TEXT NOT NULL, format_version INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS segment (
    volume INTEGER NOT NULL, pg INTEGER NOT NULL, incarnation TEXT NOT NULL,
    volume_epoch INTEGER NOT NULL, membership_epoch INTEGER NOT NULL, members TEXT NOT NULL,
    applied_lsn INTEGER NOT NULL, known_vdl INTEGER NOT NULL, floor_lsn INTEGER NOT NULL,
    commit_lsn INTEGER NOT NULL, commit_time_us INTEGER NOT NULL, commit_pages INTEGER NOT NULL,
    damaged INTEGER NOT NULL,
    PRIMARY KEY (volume, pg)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS truncation (
    volume INTEGER NOT NULL, epoch INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    PRIMARY KEY (volume, epoch, low, high)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS page_version (
    volume INTEGER NOT NULL, pg INTEGER NOT NULL, page INTEGER NOT NULL, lsn INTEGER NOT NULL,
    checksum INTEGER NOT NULL, image BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS page_version_key ON page_version (volume, page, lsn);
CREATE VIEW IF NOT EXISTS page AS
    SELECT volume, pg, page, count(*) AS versions, max(lsn) AS newest_lsn
    FROM page_version GROUP BY volume, pg, page;
"""

_PUT_SEGMENT = "INSERT OR REPLACE INTO segment VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
_PUT_VERSION = "INSERT OR REPLACE INTO page_version VALUES (?,?,?,?,?,?)"


class SqlitePageStore:
    """`path` is the operating system's, from `Disk.local_path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._db: aiosqlite.Connection | None = None
        self._writing = asyncio.Lock()

    @property
    def db(self) -> aiosqlite.Connection:
        assert self._db is not None, "the page store is not open"
        return self._db

    async def open(self, *, name: str, incarnation: str) -> str:
        self._db = await aiosqlite.connect(self._path, isolation_level=None)
        with _mapped(self._path):
            await self.db.execute("PRAGMA journal_mode=WAL")
            await self.db.execute("PRAGMA synchronous=FULL")
            await self.db.executescript(SCHEMA)
            rows = await self._all("SELECT name, incarnation, format_version FROM node")
        if not rows:
            async with self._transaction():
                await self.db.execute(
                    "INSERT INTO node VALUES (?,?,?)", (name, incarnation, FORMAT_VERSION)
                )
            return incarnation
        found_name, found_incarnation, version = rows[0]
        if version != FORMAT_VERSION:
            raise ConfigError(
                f"{self._path} has format version {version}, this program knows {FORMAT_VERSION}"
            )
        if found_name != name:
            raise ConfigError(f"{self._path} belongs to {found_name}, not to {name}")
        return str(found_incarnation)

    async def close(self) -> None:
        if self._db is not None:
            await self._db.close()
            self._db = None

    async def segments(self) -> list[SegmentRow]:
        return [_row(r) for r in await self._all("SELECT * FROM segment ORDER BY volume, pg")]

    async def truncations(self) -> dict[VolumeId, list[Truncation]]:
        found: dict[VolumeId, list[Truncation]] = {}
        for volume, epoch, low, high in await self._all(
            "SELECT * FROM truncation ORDER BY volume, epoch, low, high"
        ):
            found.setdefault(volume, []).append(Truncation(epoch, low, high))
        return found

    async def put_segments(
        self,
        rows: Sequence[SegmentRow],
        truncations: Mapping[VolumeId, Sequence[Truncation]] | None = None,
    ) -> None:
        added = [
            (volume, t.epoch, t.low, t.high)
            for volume, found in sorted((truncations or {}).items())
            for t in found
        ]
        async with self._transaction():
            await self.db.executemany(_PUT_SEGMENT, [_values(row) for row in rows])
            await self.db.executemany("INSERT OR IGNORE INTO truncation VALUES (?,?,?,?)", added)

    async def newest(
        self, segment: SegmentId, pages: Sequence[PageNo], upto: LSN
    ) -> dict[PageNo, PageVersion]:
        found = await self._all(
            "SELECT v.page, v.lsn, v.image, v.checksum FROM json_each(?) AS wanted"
            " JOIN page_version AS v ON v.volume = ? AND v.page = wanted.value AND v.lsn ="
            " (SELECT max(lsn) FROM page_version"
            "  WHERE volume = ? AND page = wanted.value AND lsn <= ?)",
            (json.dumps(list(pages)), segment.volume, segment.volume, upto),
        )
        return {page: PageVersion(page, lsn, image, crc) for page, lsn, image, crc in found}

    async def put_versions(
        self, segment: SegmentId, versions: Sequence[PageVersion], row: SegmentRow | None = None
    ) -> None:
        values = [
            (segment.volume, segment.pg, v.page, v.lsn, v.checksum, v.image) for v in versions
        ]
        async with self._transaction():
            await self.db.executemany(_PUT_VERSION, values)
            if row is not None:
                await self.db.execute(_PUT_SEGMENT, _values(row))

    async def drop_superseded(self, segment: SegmentId, floor: LSN) -> int:
        async with self._transaction():
            cursor = await self.db.execute(
                "DELETE FROM page_version AS old WHERE volume = ? AND pg = ? AND lsn <"
                " (SELECT max(lsn) FROM page_version AS new WHERE new.volume = old.volume"
                "  AND new.page = old.page AND new.lsn <= ?)",
                (segment.volume, segment.pg, floor),
            )
            return cursor.rowcount

    async def delete_version(self, segment: SegmentId, page: PageNo, lsn: LSN) -> None:
        async with self._transaction():
            await self.db.execute(
                "DELETE FROM page_version WHERE volume = ? AND page = ? AND lsn = ?",
                (segment.volume, page, lsn),
            )

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

    async def count(self, segment: SegmentId) -> int:
        rows = await self._all(
            "SELECT count(*) FROM page_version WHERE volume = ? AND pg = ?",
            (segment.volume, segment.pg),
        )
        return int(rows[0][0])

    async def _all(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with _mapped(self._path):
            return list(await self.db.execute_fetchall(sql, values))

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        """One write transaction at a time; rolled back if the body raises."""
        async with self._writing:
            with _mapped(self._path):
                await self.db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    await self.db.execute("COMMIT")
                except BaseException:
                    if self.db.in_transaction:
                        await self.db.execute("ROLLBACK")
                    raise


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


def _values(row: SegmentRow) -> tuple[Any, ...]:
    members = json.dumps([asdict(member) for member in row.membership.members])
    return (
        row.id.volume,
        row.id.pg,
        row.incarnation,
        row.epoch,
        row.membership.epoch,
        members,
        row.applied,
        row.known_vdl,
        row.floor,
        row.commit.lsn,
        row.commit.time_us,
        row.commit.pages,
        int(row.damaged),
    )


def _row(values: Any) -> SegmentRow:
    volume, pg, incarnation, epoch, membership_epoch, members, *rest = values
    applied, known_vdl, floor, commit_lsn, commit_time_us, commit_pages, damaged = rest
    return SegmentRow(
        id=SegmentId(volume, pg),
        incarnation=incarnation,
        membership=Membership(
            pg, membership_epoch, tuple(Member(**member) for member in json.loads(members))
        ),
        epoch=epoch,
        applied=applied,
        known_vdl=known_vdl,
        floor=floor,
        commit=CommitMark(commit_lsn, commit_time_us, commit_pages),
        damaged=bool(damaged),
    )
