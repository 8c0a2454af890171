"""What SQLite calls, in which order, and what the file makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import apsw
import pytest

from engine.sql.bridge import run_sync
from engine.sql.connection import Connection
from engine.sql.engine import SqlEngine
from engine.sql.session import Session
from engine.sql.vfs import VolumeFile
from engine.types import PAGE_SIZE, CommitMark
from tests.sql.client import rows, run, settle
from tests.sql.local_volume import LocalVolume

_LOCKS = {1: "SHARED", 2: "RESERVED", 4: "EXCLUSIVE", 0: "NONE"}
_CONTROLS = {apsw.SQLITE_FCNTL_SYNC: "SYNC", apsw.SQLITE_FCNTL_COMMIT_PHASETWO: "PHASETWO"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every call of SQLite to a VolumeFile, in short."""
    seen: list[str] = []

    def spy(name: str, describe: object) -> None:
        inner = getattr(VolumeFile, name)

        def wrapper(self: VolumeFile, *args: object) -> object:
            word = describe(*args)  # type: ignore[operator]
            if word:
                seen.append(word)
            return inner(self, *args)

        monkeypatch.setattr(VolumeFile, name, wrapper)

    spy("xLock", lambda level: f"+{_LOCKS[level]}")
    spy("xUnlock", lambda level: f"-{_LOCKS[level]}")
    spy("xRead", lambda amount, offset: f"R{offset // PAGE_SIZE}" if amount > 16 else "counter")
    spy("xWrite", lambda data, offset: f"W{offset // PAGE_SIZE}")
    spy("xTruncate", lambda size: f"T{size // PAGE_SIZE}")
    spy("xFileControl", lambda op, ptr: _CONTROLS.get(op, ""))
    return seen


async def trace(calls: list[str], session: Session, sql: str) -> str:
    statement = await session.prepare(sql)
    calls.clear()
    await session.execute(statement)
    return re.sub(r"(W\d+ ?)+", "W* ", " ".join(calls)).strip()


async def test_the_order_of_calls_is_what_the_module_says(
    session: Session, calls: list[str]
) -> None:
    await run(session, "create table t(a integer primary key, b)")
    await run(session, "create table gone(a)")
    await run(session, "insert into t values (1, 1)")

    read = await trace(calls, session, "select * from t")
    assert read == "+SHARED counter -NONE"
    autocommit = await trace(calls, session, "insert into t values (2, 2)")
    assert autocommit == ("+SHARED counter +RESERVED +EXCLUSIVE W* SYNC PHASETWO -SHARED -NONE")
    no_change = await trace(calls, session, "update t set b = 3 where a = 99")
    assert no_change == "+SHARED counter +RESERVED +EXCLUSIVE PHASETWO -SHARED -NONE"
    ddl = await trace(calls, session, "drop table gone")
    assert ddl.endswith("+RESERVED +EXCLUSIVE W* SYNC PHASETWO -SHARED -NONE")
    vacuum = await trace(calls, session, "vacuum")
    assert vacuum.endswith("+RESERVED +EXCLUSIVE W* SYNC T2 PHASETWO -SHARED -NONE")


async def test_the_order_of_calls_in_a_transaction(session: Session, calls: list[str]) -> None:
    await run(session, "create table t(a)")
    assert await trace(calls, session, "begin") == ""
    assert await trace(calls, session, "insert into t values (1)") == "+SHARED counter +RESERVED"
    assert await trace(calls, session, "savepoint s") == ""
    assert await trace(calls, session, "insert into t values (zeroblob(50000))") == ""
    assert await trace(calls, session, "rollback to s") == ""
    commit = await trace(calls, session, "commit")
    assert commit == "+EXCLUSIVE W* SYNC PHASETWO -SHARED -NONE"
    await run(session, "begin")
    await run(session, "insert into t values (2)")
    assert await trace(calls, session, "rollback") == "-SHARED -NONE"


async def test_a_commit_that_finds_no_room_is_rolled_back_and_nothing_is_left(
    volume: LocalVolume, session: Session, calls: list[str]
) -> None:
    await run(session, "create table t(a)")
    await run(session, "insert into t values ('kept')")
    before = volume.commits[-1]
    volume.max_pages = before.pages + 2
    for sql in ("insert into t values (zeroblob(50000))", "commit"):
        if sql == "commit":
            await run(session, "begin")
            await run(session, "insert into t values (zeroblob(50000))")
        calls.clear()
        with pytest.raises(Exception, match="maximum") as caught:
            await run(session, sql)
        assert getattr(caught.value, "sqlstate", "") == "53100"
        assert "PHASETWO" not in calls
        assert calls.count("SYNC") == 2
        assert session.status == "I"
        assert volume.commits[-1] == before
        assert await rows(session, "select a from t") == [("kept",)]
        assert await rows(session, "pragma integrity_check") == [("ok",)]
    await run(session, "insert into t values ('small')")
    assert len(await rows(session, "select * from t")) == 2


async def test_an_mtr_has_only_pages_that_changed(volume: LocalVolume, session: Session) -> None:
    await run(session, "create table t(a integer primary key, b)")
    await run(session, "insert into t values (1, 1)")
    known = len(volume.log)
    await run(session, "update t set b = 2 where a = 1")
    assert [r.page for r in volume.log[known:]] == [1], "page 0 has nothing but another counter"
    known = len(volume.log)
    await run(session, "update t set b = 2 where a = 77")
    assert len(volume.log) == known


async def test_a_connection_keeps_its_pages_while_the_state_is_the_same(
    engine: SqlEngine, session: Session, calls: list[str]
) -> None:
    await run(session, "create table t(a)")
    await run(session, "insert into t values (0)")
    other = engine.session()
    assert await rows(other, "select a from t") == [(0,)]
    valid, stale = "+SHARED counter -NONE", "+SHARED counter R0 R1 -NONE"
    assert await trace(calls, session, "select a from t") == valid, "its own commit"
    for value in range(1, 4):
        assert await trace(calls, other, "select a from t") == valid
        await run(session, "update t set a = ?", value)
        await settle()
        assert await trace(calls, other, "select a from t") == stale, "somebody else's commit"
        assert await rows(other, "select a from t") == [(value,)]
    await run(other, "update t set a = a")
    assert await trace(calls, other, "select a from t") == valid, "a commit without a change"
    await run(session, "update t set a = 4")
    await run(other, "update t set a = a + 1")
    await settle()
    assert await trace(calls, other, "select a from t") == valid
    assert await rows(session, "select a from t") == await rows(other, "select a from t") == [(5,)]


async def test_between_the_past_and_now_no_page_is_taken_for_another(
    volume: LocalVolume, engine: SqlEngine, session: Session
) -> None:
    file = VolumeFile(engine.pool, None)
    await run(session, "create table t(a)")
    marks = []
    for value in range(3):
        await run(session, "insert into t values (?)", value)
        await settle()
        marks.append(volume.vdl)
    shown = []
    for mark in [*marks, None, marks[0], None, marks[2], marks[2]]:
        file.as_of = mark
        file.xLock(1)
        shown.append(await run_sync(file.xRead, 16, 24))
        assert shown[-1][:4] == (await run_sync(file.xRead, PAGE_SIZE, 0))[24:28]
        file.xUnlock(0)
    newest, before = shown[2], shown[3:]
    assert before[0] == newest, "the newest commit and now are one state"
    assert len(set(shown)) == 3 + 2, "whenever the state has changed"
    assert shown[-1] == shown[-2]


async def test_a_file_whose_size_was_never_valid_is_believed_by_its_length(
    volume: LocalVolume, session: Session
) -> None:
    """As SQLite before 3.7 wrote them: the two counters differ, and the size in page 1 means nothing."""
    await run(session, "create table t(a)")
    await run(session, "insert into t values (zeroblob(20000))")
    await settle()
    engine = volume.writer()
    header = await engine.pool.get(0, volume.vdl.lsn)
    old = header[:28] + (2).to_bytes(4, "big") + header[32:92] + b"\0\0\0\7" + header[96:]
    await engine.commit_pages({0: old}, volume.vdl.pages)
    reading = engine.session()
    assert await rows(reading, "pragma integrity_check") == [("ok",)]
    assert await rows(reading, "select length(a) from t") == [(20000,)]
    await run(reading, "insert into t values (zeroblob(20000))")
    assert await rows(reading, "pragma integrity_check") == [("ok",)]
    await engine.close()


async def test_a_commit_without_page_1_says_how_many_pages_are_free(
    volume: LocalVolume, session: Session
) -> None:
    """A writer that has just started would else not know whether a full volume has room again."""
    await run(session, "create table t(a, b)")
    await run(session, "insert into t values (1, zeroblob(40000)), (2, 'x')")
    await run(session, "delete from t where a = 1")
    ((free,),) = await rows(session, "pragma freelist_count")
    volume.free, known = None, len(volume.log)
    await run(session, "update t set b = 'y'")
    assert 0 not in [record.page for record in volume.log[known:]]
    assert volume.free == free > 0


async def test_a_first_commit_that_finds_no_room_leaves_no_page_behind(
    volume: LocalVolume, engine: SqlEngine, session: Session
) -> None:
    """SQLite keeps an empty page 1 of it, with the number that the next commit of anybody gets."""
    other = engine.session()
    volume.max_pages = 1
    with pytest.raises(Exception, match="maximum"):
        await run(other, "create table t(a)")
    volume.max_pages = 100
    await run(session, "create table u(a)")
    await settle()
    assert await rows(other, "select * from u") == []
    await run(other, "insert into u values (1)")
    await settle()
    assert await rows(session, "select * from u") == [(1,)]


async def test_a_large_commit_is_announced_and_a_small_one_is_not(
    volume: LocalVolume, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.sql.vfs.LARGE_COMMIT_PAGES", 10)
    await run(session, "create table t(a)")
    await run(session, "insert into t values (zeroblob(20000))")
    assert volume.prepared == 0
    await run(session, "insert into t values (zeroblob(50000))")
    assert volume.prepared == 2, "before the pages are handed over, and after the volume has grown"
    await run(session, "update t set a = randomblob(length(a))")
    assert volume.prepared == 3
    volume.max_pages = volume.commits[-1].pages
    with pytest.raises(Exception, match="maximum"):
        await run(session, "insert into t values (zeroblob(90000))")
    assert await rows(session, "select count(*) from t") == [(2,)]


async def test_new_pages_are_full_images_and_old_ones_are_diffs(
    volume: LocalVolume, session: Session
) -> None:
    await run(session, "create table t(a)")
    known = len(volume.log)
    await run(session, "insert into t values (zeroblob(20000))")
    assert {r.page: r.full for r in volume.log[known:] if r.page < 2} == {0: False, 1: False}
    assert all(r.full for r in volume.log[known:] if r.page >= 2)


async def test_a_reused_page_that_is_not_cached_becomes_a_full_image(
    volume: LocalVolume,
) -> None:
    engine = volume.writer(capacity=8)
    session = engine.session()
    await run(session, "create table t(a)")
    for _ in range(20):
        await run(session, "insert into t values (randomblob(9000))")
    await run(session, "delete from t")
    await run(session, "insert into t values (randomblob(90000))")
    assert await rows(session, "pragma integrity_check") == [("ok",)]
    await engine.close()


async def test_dropping_and_vacuuming_shrinks_the_volume_and_it_grows_again(
    volume: LocalVolume, session: Session
) -> None:
    await run(session, "create table t(a)")
    await run(session, "insert into t values (zeroblob(200000))")
    large = volume.commits[-1].pages
    await run(session, "delete from t")
    assert volume.commits[-1].pages == large
    await run(session, "vacuum")
    assert volume.commits[-1].pages == 2
    await run(session, "insert into t values (randomblob(200000))")
    assert volume.commits[-1].pages >= large - 1
    assert await rows(session, "pragma integrity_check") == [("ok",)]


async def test_a_database_is_what_sqlite_itself_would_have_written(
    volume: LocalVolume, session: Session
) -> None:
    await run(session, "create table t(a integer primary key, b text)")
    await run(session, "create index i on t(b)")
    await run(session, "insert into t values (1, 'one'), (2, 'two')")
    await settle()
    plain = apsw.Connection(":memory:")
    plain.deserialize("main", volume.database(volume.vdl))
    assert plain.execute("select * from t").fetchall() == [(1, "one"), (2, "two")]
    assert plain.execute("pragma integrity_check").fetchall() == [("ok",)]
    plain.close()


async def test_no_cached_page_survives_a_reset_of_the_pool(
    volume: LocalVolume, engine: SqlEngine, session: Session
) -> None:
    """Two histories with equal change counters: what a rewound volume would show."""
    await run(session, "create table t(a)")
    await run(session, "insert into t values ('kept')")
    await settle()
    fork = volume.vdl
    await run(session, "update t set a = 'first history'")
    await settle()
    assert await rows(session, "select a from t") == [("first history",)]
    first = volume.database(volume.vdl)[24:40]

    volume.vdl = fork
    volume.crash()
    other_engine = volume.writer()
    other = other_engine.session()
    await run(other, "update t set a = 'second history'")
    await settle()
    assert volume.database(volume.vdl)[24:40] == first
    engine.pool.reset(volume.vdl)
    assert await rows(session, "select a from t") == [("second history",)]
    await other_engine.close()


async def test_writing_without_the_lock_is_refused(volume: LocalVolume, engine: SqlEngine) -> None:
    session = engine.session()
    await run(session, "create table t(a)")
    connection = await run_sync(Connection, engine.vfs, engine.pool, volume, engine.settings)
    with pytest.raises(apsw.ReadOnlyError):
        await run_sync(connection.run, "insert into t values (1)", ())
    connection.file.writing = True
    await run_sync(connection.run, "begin", ())
    await run_sync(connection.run, "select * from t", ())
    engine.pool.tip = CommitMark(10**6, 0, 2)  # as if somebody had committed meanwhile
    with pytest.raises(apsw.ReadOnlyError):
        await run_sync(connection.run, "insert into t values (1)", ())
    await run_sync(connection.close)
    engine.pool.tip = engine.pool.visible


async def test_there_is_no_file_but_the_volume(engine: SqlEngine) -> None:
    with pytest.raises(apsw.CantOpenError):
        apsw.Connection("other", vfs=engine.vfs.vfs_name)


async def test_the_clock_is_ours(session: Session) -> None:
    assert await rows(session, "select datetime('now')") == [("2023-11-14 22:13:20",)]
