from __future__ import annotations

import apsw
import pytest

from engine.sql.engine import SqlEngine, SqlSettings
from engine.sql.session import Session
from tests.sql.client import fails, rows, run
from tests.sql.local_volume import LocalVolume


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("attach '/etc/passwd' as p", "0A000"),
        ("attach ':memory:' as p", "0A000"),
        ("detach main", "0A000"),
        ("vacuum into '/tmp/copy'", "0A000"),
        ("select load_extension('x')", "42501"),
        ("select fts3_tokenizer('x')", "42501"),
        ("select sqlite_log(1, 'x')", "42501"),
        ("select readfile('/etc/passwd')", "42883"),
        ("create virtual table d using dbstat", "0A000"),
        ("create virtual table d using fts3tokenize", "0A000"),
        ("pragma journal_mode = wal", "42501"),
        ("pragma journal_mode", "42501"),
        ("pragma synchronous = 2", "42501"),
        ("pragma locking_mode = exclusive", "42501"),
        ("pragma page_size = 512", "42501"),
        ("pragma writable_schema = 1", "42501"),
        ("pragma temp_store = 1", "42501"),
        ("pragma cache_spill = 1", "42501"),
        ("pragma cache_size = 100000", "42501"),
        ("pragma mmap_size = 100000", "42501"),
        ("pragma auto_vacuum = 1", "42501"),
        ("pragma encoding = 'UTF-16'", "42501"),
        ("pragma application_id = 3", "42501"),
        ("pragma schema_version = 3", "42501"),
        ("pragma optimize", "42501"),
        ("pragma trusted_schema = 1", "42501"),
        ("pragma ignore_check_constraints = 1", "42501"),
        ("pragma hard_heap_limit = 0", "42501"),
        ("pragma threads = 8", "42501"),
        ("pragma query_only = 1", "42501"),
        ("pragma main.locking_mode = exclusive", "42501"),
        ("pragma no_such_pragma", "42501"),
        ("select * from pragma_locking_mode", "42501"),
        ("update sqlite_schema set sql = 'x'", "42501"),
        ("insert into sqlite_schema values (1, 2, 3, 4, 5)", "42501"),
        ("drop table sqlite_schema", "42501"),
        ('select "not a column"', "42703"),
    ],
)
async def test_refused(engine: SqlEngine, session: Session, sql: str, sqlstate: str) -> None:
    error = await fails(session, sql)
    assert error.sqlstate == sqlstate, str(error)
    assert not engine.lock.held
    assert await rows(session, "select 1") == [(1,)]


@pytest.mark.parametrize(
    "sql",
    [
        "pragma table_info(t)",
        "pragma table_xinfo = t",
        "pragma table_list",
        "pragma index_list(t)",
        "pragma index_info(i)",
        "pragma foreign_key_list(t)",
        "pragma integrity_check",
        "pragma quick_check",
        "pragma foreign_keys",
        "pragma foreign_keys = off",
        "pragma user_version",
        "pragma user_version = 7",
        "pragma application_id",
        "pragma encoding",
        "pragma case_sensitive_like = 1",
        "pragma page_size",
        "select * from pragma_table_info('t')",
        "create virtual table f using fts5(a)",
        "create virtual table r using rtree(id, x0, x1)",
        "vacuum",
        "vacuum main",
        "select * from dbstat",
    ],
)
async def test_allowed(session: Session, sql: str) -> None:
    await run(session, "create table t(a)")
    await run(session, "create index i on t(a)")
    await run(session, sql)


async def test_full_text_search_works(session: Session) -> None:
    await run(session, "create virtual table f using fts5(body)")
    await run(session, "insert into f values ('the quick brown fox'), ('a lazy dog')")
    assert await rows(session, "select body from f where f match 'quick'") == [
        ("the quick brown fox",)
    ]
    assert await rows(session, "pragma integrity_check") == [("ok",)]
    error = await fails(session, "delete from f_content")
    assert error.sqlstate == "42501"


async def test_vacuum_may_attach_only_while_it_runs(session: Session) -> None:
    await run(session, "vacuum")
    assert (await fails(session, "attach '' as y")).sqlstate == "0A000"


async def test_a_refusal_does_not_linger(session: Session) -> None:
    await fails(session, "pragma journal_mode = wal")
    assert (await fails(session, "select * from nowhere")).sqlstate == "42P01"
    await run(session, "pragma user_version = 4")


async def test_views_may_not_call_what_is_not_harmless(session: Session) -> None:
    await run(session, "create table t(a)")
    await run(session, "create view v as select * from pragma_table_info('t')")
    assert (await fails(session, "select * from v")).sqlstate == "42501"


@pytest.mark.parametrize(
    "sql",
    [
        "select zeroblob(100000000)",
        "select " + "abs(" * 600 + "1" + ")" * 600,
        "select " + "+".join(["1"] * 1000),
        "select " + ",".join(["1"] * 2001),
        "select '" + "x" * (9 * 1024 * 1024) + "'",
        "select 1 where 'a' like '" + "%a" * 6000 + "'",
        "select $40000",
    ],
)
async def test_limits(session: Session, sql: str) -> None:
    error = await fails(session, sql)
    assert error.sqlstate in ("54000", "42P02", "42601"), str(error)


async def test_the_settings_of_the_file_are_what_the_vfs_needs(session: Session) -> None:
    await run(session, "create table t(a)")
    connection = session._connection
    assert connection is not None
    connection.db.authorizer = None
    expected = {
        "journal_mode": "memory",
        "cache_spill": 0,
        "temp_store": 2,
        "synchronous": 0,
        "locking_mode": "normal",
        "auto_vacuum": 0,
        "page_size": 4096,
        "foreign_keys": 1,
        "trusted_schema": 0,
    }
    assert {name: connection.db.pragma(name) for name in expected} == expected


async def test_sqlite_has_no_worker_threads(session: Session) -> None:
    await run(session, "select 1")
    connection = session._connection
    assert connection is not None
    assert connection.db.limit(apsw.SQLITE_LIMIT_WORKER_THREADS) == 0
    assert connection.db.limit(apsw.SQLITE_LIMIT_ATTACHED) == 0


async def test_heap_limits_are_set(volume: LocalVolume) -> None:
    engine = volume.writer(settings=SqlSettings(heap_bytes_max=512 * 1024 * 1024))
    assert apsw.hard_heap_limit(-1) == 512 * 1024 * 1024
    await engine.close()
    await volume.writer().close()
    assert apsw.hard_heap_limit(-1) == SqlSettings().heap_bytes_max
