"""No read of a page looks through its volume: the page store's queries, as SQLite plans them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from engine.storage.pagestore import PageVersion, SegmentRow
from engine.storage.pagestore_sqlite import SqlitePageStore
from engine.types import PAGE_SIZE, Ancestor, Member, Membership, SegmentId

SIX = tuple(Member(f"s{n}", f"az{n // 2}", f"i{n}", "x") for n in range(6))
ROW = SegmentRow(
    SegmentId(2, 1), "i", Membership(1, 1, SIX), ancestry=(Ancestor(1, 90), Ancestor(3, 40))
)


async def test_every_query_goes_to_the_pages_it_is_about(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    store = SqlitePageStore(str(path))
    await store.open(name="storage-1", incarnation="i")
    said: list[str] = []
    assert store._reader is not None
    assert store._writer is not None
    for connection in (store._reader, store._writer):
        await connection.set_trace_callback(said.append)
    image = bytes(PAGE_SIZE)
    versions = [PageVersion.make(2, 2560 + n, lsn, image) for n in range(5) for lsn in (3, 7)]
    await store.put_versions(ROW.id, versions, ROW)
    assert len(await store.newest(ROW.id, [2560, 2562], 5)) == 2
    assert await store.drop_superseded(ROW, 7, [2561]) == 1
    assert await store.drop_superseded(ROW, 7, None, keep=[3]) == 0
    assert await store.drop_superseded(ROW, 7, None) == 4
    await store.shared_pages(ROW)
    await store.replace_version(ROW.id, 2560, 7, versions[1])
    await store.scan((2, 2560, 0), 10)
    await store.drop_segment(ROW.id)
    await store.close()
    asked = [sql for sql in said if "FROM page_version" in sql or "JOIN page_version" in sql]
    assert len(asked) >= 8
    with closing(sqlite3.connect(path)) as database:
        for sql in asked:
            for *_, plan in database.execute(f"EXPLAIN QUERY PLAN {sql}"):
                looks = plan.startswith(
                    ("SCAN page_version", "SCAN v", "SEARCH page_version", "SEARCH v")
                )
                assert not looks or "page" in plan.partition("(")[2], f"{plan}: {sql}"
