"""The catalog's part in clones: what is a clone of what, and where its groups begin.

A clone's row is made with its cluster (`adopt_fork`), before anybody knows of which commit. Then, each in a
transaction of its own, it is *planned* (the commit, the groups, and where each begins), and *made*: nobody
opens the volume before. A plan that cannot be carried out is *abandoned*: its volume is deleted, and the
cluster gets another one, which is not planned yet.

Invariants
- A clone is made only while its parent is there. So a write quorum had every page when it came to share
  them, whatever becomes of the parent.
- A clone's ancestry is written down whole: nothing of its ancestors' rows is needed later.
- `CLONES_MAX` clones of a parent share its pages, whoever asks at the same time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from cluster.control.rows import Fork, ForkRow, VolumeRow
from cluster.control.transactions import bump, event, one_or_none, row, tombstone
from cluster.local.layout import ForkSpec
from engine.types import LSN, MAX_ANCESTRY, CommitMark, PgNo, SegmentId, VolumeId

if TYPE_CHECKING:
    import aiosqlite

CLONES_MAX = 15
"""Clones of one volume that share its pages, as in Aurora."""

FORK_COLUMNS = "f.volume, f.parent, f.source, f.copy, f.made, f.lsn, f.time_us, f.pages"


def fork_row(values: Any) -> ForkRow | None:
    """From `FORK_COLUMNS`, all of them null if there is none."""
    volume, parent, source, copy, made, *commit = values
    return (
        None
        if volume is None
        else ForkRow(volume, parent, source, copy, bool(made), CommitMark(*commit))
    )


class ForkTable(ABC):
    """The transitions; `cluster.control.catalog.Catalog` is one."""

    @abstractmethod
    def _transaction(self) -> AbstractAsyncContextManager[aiosqlite.Connection]: ...

    @abstractmethod
    async def _all(self, sql: str, *values: Any) -> list[aiosqlite.Row]: ...

    # -- reading

    async def volume_rows(self) -> list[VolumeRow]:
        """Every volume that is not deleted, and the deleted ones that were cloned, by number."""
        rows = await self._all(
            f"SELECT v.volume, c.name, {FORK_COLUMNS} FROM volumes v"
            " LEFT JOIN clusters c USING (volume) LEFT JOIN forks f USING (volume)"
            " WHERE NOT v.deleted OR v.volume IN (SELECT parent FROM forks) ORDER BY v.volume"
        )
        groups: dict[VolumeId, list[PgNo]] = {}
        for volume, pg in await self._all("SELECT volume, pg FROM groups ORDER BY volume, pg"):
            groups.setdefault(volume, []).append(pg)
        return [
            VolumeRow(volume, name or "", tuple(groups.get(volume, ())), fork_row(fork))
            for volume, name, *fork in rows
        ]

    async def forks(self) -> dict[SegmentId, Fork]:
        """Groups of clones that some member has not confirmed yet."""
        rows = await self._all(
            "SELECT g.volume, g.pg, g.tail, f.made, f.lsn, f.time_us, f.pages, a.ancestor, a.lsn"
            " FROM forks f JOIN fork_groups g USING (volume) JOIN ancestors a USING (volume, pg)"
            " WHERE EXISTS (SELECT 1 FROM members m"
            " WHERE m.volume = g.volume AND m.pg = g.pg AND m.created = 0)"
            " ORDER BY g.volume, g.pg, a.place"
        )
        found: dict[SegmentId, Fork] = {}
        for volume, pg, tail, made, lsn, time_us, pages, ancestor, upto in rows:
            key = SegmentId(volume, pg)
            ancestry = (*(found[key].ancestry if key in found else ()), (ancestor, upto))
            commit = CommitMark(lsn, time_us, pages)
            found[key] = Fork(ancestry, tail, commit, made=bool(made))
        return found

    # -- transitions

    async def plan_fork(
        self, fork: ForkRow, commit: CommitMark, tails: Mapping[PgNo, LSN], *, time_us: int
    ) -> bool:
        """Have `fork`'s volume begin after `commit` of its parent, with these groups: `tails` are the last
        LSNs there at or below it. Each is kept by those who keep the parent's.

        False, and nothing is changed, if it is planned already or one of the two volumes is deleted.
        """
        assert commit.lsn, "without a commit there is nothing to share"
        async with self._transaction() as db:
            if not await _can_be_made(db, fork) or not await _is_new(db, fork):
                return False
            await db.execute(
                "UPDATE forks SET lsn = ?, time_us = ?, pages = ? WHERE volume = ?",
                (commit.lsn, commit.time_us, commit.pages, fork.volume),
            )
            await _add_fork_groups(db, fork, tails, commit.lsn)
            await bump(db)
            return True

    async def fork_made(self, fork: ForkRow, *, time_us: int) -> bool:
        """It stands, and may be opened; or (not planned) its parent has nothing in it.

        False if it was made before, or one of the two volumes is deleted.
        """
        async with self._transaction() as db:
            if not await _can_be_made(db, fork):
                return False
            await db.execute("UPDATE forks SET made = 1 WHERE volume = ?", (fork.volume,))
            (name,) = await row(db, "SELECT name FROM clusters WHERE volume = ?", fork.volume)
            (lsn,) = await row(db, "SELECT lsn FROM forks WHERE volume = ?", fork.volume)
            where = f"as of LSN {lsn}, sharing its pages" if lsn else "before its first commit"
            what = f"is a clone of {fork.source}, {where}, with volume {fork.volume}"
            await event(db, time_us, name, what)
            await bump(db)
            return True

    async def abandon_fork(self, fork: ForkRow, *, time_us: int) -> bool:
        """Give the cluster another volume, to be planned anew; whoever has a segment of the one there is
        drops it. False if it is made, or one of the two volumes is deleted."""
        async with self._transaction() as db:
            if not await _can_be_made(db, fork):
                return False
            name, max_pages = await row(
                db,
                "SELECT name, max_pages FROM clusters JOIN volumes USING (volume) WHERE volume = ?",
                fork.volume,
            )
            added = await db.execute(
                "INSERT INTO volumes (epoch, max_pages) VALUES (0, ?)", (max_pages,)
            )
            await db.execute(
                "UPDATE clusters SET volume = ? WHERE name = ?", (added.lastrowid, name)
            )
            await tombstone(db, fork.volume)
            await db.execute("DELETE FROM forks WHERE volume = ?", (fork.volume,))
            await db.execute(
                "INSERT INTO forks (volume, parent, source, copy) VALUES (?, ?, ?, '')",
                (added.lastrowid, fork.parent, fork.source),
            )
            what = f"volume {fork.volume} is given up: the fork cannot be made at LSN {fork.commit.lsn}"
            await event(db, time_us, name, what)
            await bump(db)
            return True


# -- parts of transactions


async def adopt_fork(
    db: aiosqlite.Connection, volume: VolumeId, parent: VolumeId, spec: ForkSpec
) -> str:
    """`volume`, new and empty, is to become a clone of `parent`: sharing pages, or why it may not."""
    copy = await _why_copy(db, parent, spec.source)
    await db.execute(
        "INSERT INTO forks (volume, parent, source, copy, made) VALUES (?, ?, ?, ?, ?)",
        (volume, parent, spec.source, copy, bool(copy)),
    )
    return copy


async def _why_copy(db: aiosqlite.Connection, parent: VolumeId, source: str) -> str:
    (clones,) = await row(
        db,
        "SELECT count(*) FROM forks JOIN volumes USING (volume)"
        " WHERE parent = ? AND copy = '' AND NOT deleted",
        parent,
    )
    if clones >= CLONES_MAX:
        return f"{clones} clones share the pages of {source} already, as many as may"
    (depth,) = await row(
        db, "SELECT coalesce(max(place) + 1, 0) FROM ancestors WHERE volume = ?", parent
    )
    if depth >= MAX_ANCESTRY:
        return f"{source} has pages of {depth} other volumes already, as many as may be"
    return ""


async def _can_be_made(db: aiosqlite.Connection, fork: ForkRow) -> bool:
    found = await one_or_none(
        db,
        "SELECT 1 FROM forks f JOIN volumes v USING (volume) JOIN volumes p ON p.volume = f.parent"
        " WHERE f.volume = ? AND f.parent = ? AND NOT f.made AND NOT v.deleted AND NOT p.deleted",
        fork.volume,
        fork.parent,
    )
    return found is not None


async def _is_new(db: aiosqlite.Connection, fork: ForkRow) -> bool:
    (groups,) = await row(db, "SELECT count(*) FROM groups WHERE volume = ?", fork.volume)
    return bool(groups == 0)


async def _add_fork_groups(
    db: aiosqlite.Connection, fork: ForkRow, tails: Mapping[PgNo, LSN], upto: LSN
) -> None:
    """Each statement for all groups at once: every call costs a turn of the database's thread."""
    groups = [(fork.volume, pg) for pg in sorted(tails)]
    with_parents = [(*group, fork.parent, group[1]) for group in groups]
    await db.executemany("INSERT INTO groups VALUES (?, ?, 1)", groups)
    await db.executemany(
        "INSERT INTO members SELECT ?, ?, n.name, n.incarnation, 0 FROM members m"
        " JOIN storage_nodes n ON n.name = m.node WHERE m.volume = ? AND m.pg = ?",
        with_parents,
    )
    await db.executemany(
        "INSERT INTO fork_groups VALUES (?, ?, ?)", [(*group, tails[group[1]]) for group in groups]
    )
    await db.executemany(
        "INSERT INTO ancestors VALUES (?, ?, 0, ?, ?)",
        [(*group, fork.parent, upto) for group in groups],
    )
    await db.executemany(
        "INSERT INTO ancestors SELECT ?, ?, place + 1, ancestor, lsn FROM ancestors"
        " WHERE volume = ? AND pg = ?",
        with_parents,
    )
