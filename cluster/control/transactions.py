"""Parts of the catalog's transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.types import VolumeId

if TYPE_CHECKING:
    import aiosqlite

EVENTS_KEPT = 10_000


async def one_or_none(db: aiosqlite.Connection, sql: str, *values: Any) -> aiosqlite.Row | None:
    async with db.execute(sql, values) as cursor:
        return await cursor.fetchone()


async def row(db: aiosqlite.Connection, sql: str, *values: Any) -> aiosqlite.Row:
    """The only row there is to be."""
    found = await one_or_none(db, sql, *values)
    assert found is not None, sql
    return found


async def bump(db: aiosqlite.Connection) -> None:
    """Something changed that a view shows."""
    await db.execute("UPDATE revision SET version = version + 1")


async def event(db: aiosqlite.Connection, time_us: int, subject: str, what: str) -> None:
    done = await db.execute(
        "INSERT INTO events (time_us, subject, what) VALUES (?, ?, ?)", (time_us, subject, what)
    )
    assert done.lastrowid is not None
    await db.execute("DELETE FROM events WHERE id <= ?", (done.lastrowid - EVENTS_KEPT,))


async def tombstone(db: aiosqlite.Connection, volume: VolumeId) -> None:
    """Nobody keeps anything of the volume any more. Its epoch moves too: whoever was about to add a group
    to it does not."""
    of = (volume,)
    await db.execute("DELETE FROM ancestors WHERE volume = ?", of)
    await db.execute("DELETE FROM fork_groups WHERE volume = ?", of)
    await db.execute("DELETE FROM replacements WHERE volume = ?", of)
    await db.execute("DELETE FROM members WHERE volume = ?", of)
    await db.execute(
        "UPDATE groups SET membership_epoch = membership_epoch + 1 WHERE volume = ?", of
    )
    await db.execute("UPDATE volumes SET epoch = epoch + 1, deleted = 1 WHERE volume = ?", of)
