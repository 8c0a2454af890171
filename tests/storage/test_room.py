"""The room of a dropped segment: it goes back to the file system, and others work meanwhile."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from engine.storage.pagestore import PageVersion, SegmentRow
from engine.storage.pagestore_sqlite import SqlitePageStore
from engine.types import PAGE_SIZE, Member, Membership, SegmentId
from engine.volume.geometry import first_page
from tests.support.until import until

PAGES = 1000
MEMBER = Member("storage-1", "az1", "127.0.0.1:1", "first")


async def _filled(store: SqlitePageStore, volume: int, pg: int) -> SegmentRow:
    row = SegmentRow(SegmentId(volume, pg), "first", Membership(pg, 1, (MEMBER,)))
    start = first_page(pg)
    versions = [
        PageVersion.make(volume, page, 5, page.to_bytes(4, "big") * (PAGE_SIZE // 4))
        for page in range(start, start + PAGES)
    ]
    await store.put_versions(row.id, versions, row)
    return row


async def _opened(path: Path) -> SqlitePageStore:
    store = SqlitePageStore(str(path))
    await store.open(name="storage-1", incarnation="first")
    return store


async def test_file_shrinks_when_a_segment_is_dropped_and_the_others_stay_whole(
    tmp_path: Path,
) -> None:
    path = tmp_path / "node.db"
    store = await _opened(path)
    gone, other, same = [await _filled(store, v, pg) for v, pg in ((1, 0), (2, 0), (1, 1))]
    await store.drop_segment(gone.id)
    await store.put_segments([other])  # while room is given back
    await until(lambda: not store._running)
    assert await store.counts() == {other.id: (PAGES, PAGES), same.id: (PAGES, PAGES)}
    await store.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA freelist_count").fetchone() == (0,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert path.stat().st_size < 2.5 * 2 * PAGES * PAGE_SIZE


async def test_file_of_before_keeps_the_room_for_others(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    store = await _opened(path)
    await store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
    store = await _opened(path)
    gone = await _filled(store, 1, 0)
    await store.drop_segment(gone.id)
    await until(lambda: not store._running)
    await _filled(store, 2, 0)
    assert await store.counts() == {SegmentId(2, 0): (PAGES, PAGES)}
    await store.close()
