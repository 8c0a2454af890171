from __future__ import annotations

import asyncio

import pytest

from engine.errors import FeatureNotSupported, QueryCanceled, ReadOnly
from engine.sql.engine import SqlEngine, SqlSettings
from engine.sql.errors import SessionBusy, SessionClosed
from engine.sql.session import Session
from tests.sql.client import fails, parked, rows, run, settle
from tests.sql.local_volume import LocalVolume


@pytest.fixture
async def table(session: Session) -> Session:
    await run(session, "create table t(a integer primary key, b text unique)")
    await run(session, "insert into t values (1, 'one'), (2, 'two')")
    return session


# -- results


@pytest.mark.parametrize(
    ("sql", "tag"),
    [
        ("insert into t values (3, 'three'), (4, 'four')", "INSERT 0 2"),
        ("insert into t values (1, 'x') on conflict do nothing", "INSERT 0 0"),
        ("insert into t values (1, 'x') on conflict(a) do update set b = 'y'", "INSERT 0 1"),
        ("replace into t values (1, 'x')", "INSERT 0 1"),
        ("with n as (select 9) insert into t select *, 'nine' from n", "INSERT 0 1"),
        ("update t set b = b || '!'", "UPDATE 2"),
        ("update t set b = 'x' where a = 9", "UPDATE 0"),
        ("delete from t", "DELETE 2"),
        ("delete from t where a = 1 returning b", "DELETE 1"),
        ("select * from t", "SELECT 2"),
        ("values (1), (2), (3)", "SELECT 3"),
        ("create table u(x)", "CREATE TABLE"),
        ("create temp table u(x)", "CREATE TABLE"),
        ("create index i on t(b)", "CREATE INDEX"),
        ("create view v as select 1", "CREATE VIEW"),
        ("drop table t", "DROP TABLE"),
        ("alter table t add column c", "ALTER TABLE"),
        ("explain select 1", "EXPLAIN"),
        ("analyze", "ANALYZE"),
        ("vacuum", "VACUUM"),
        ("pragma user_version = 3", "PRAGMA"),
        ("", ""),
        ("-- nothing", ""),
    ],
)
async def test_tags(table: Session, sql: str, tag: str) -> None:
    assert (await run(table, sql)).tag == tag


async def test_prepare_describes_a_statement(table: Session) -> None:
    statement = await table.prepare("select a, b, a + 1 as c from t where a = $2; select 2; ")
    assert statement.parameters == 2
    assert [(c.name, c.decltype) for c in statement.columns] == [
        ("a", "INTEGER"),
        ("b", "TEXT"),
        ("c", None),
    ]
    assert statement.readonly
    assert statement.verb == "SELECT"
    assert statement.tail == "select 2; "
    rest = await table.prepare(statement.tail)
    assert (rest.verb, rest.tail) == ("SELECT", "")


@pytest.mark.parametrize(
    ("sql", "readonly"),
    [
        ("select 1", True),
        ("insert into t values (9, 'x')", False),
        ("explain insert into t values (9, 'x')", True),
        ("pragma user_version", True),
        ("pragma user_version = 1", False),
        ("create temp table x(a)", False),
        ("vacuum", False),
    ],
)
async def test_prepare_knows_what_writes(table: Session, sql: str, readonly: bool) -> None:
    assert (await table.prepare(sql)).readonly is readonly


async def test_prepare_leaves_nothing_behind(
    volume: LocalVolume, engine: SqlEngine, table: Session
) -> None:
    await settle()
    commits = list(volume.commits)
    await table.prepare("insert into t values (9, 'x')")
    assert await rows(table, "select count(*) from t") == [(2,)]
    assert volume.commits == commits
    assert not engine.lock.held


@pytest.mark.parametrize("value", [None, 0, 2**63 - 1, -(2**63), 1.5, "ünï", b"\x00\xff", ""])
async def test_values_come_back_as_they_went_in(table: Session, value: object) -> None:
    assert await rows(table, "select $1", value) == [(value,)]  # type: ignore[arg-type]


async def test_booleans_are_numbers(table: Session) -> None:
    assert await rows(table, "select $1, $2", True, False) == [(1, 0)]


async def test_a_number_beyond_64_bits_is_refused(table: Session) -> None:
    assert (await fails(table, "select $1", 2**63)).sqlstate == "22003"


async def test_a_parameter_may_be_used_twice_and_in_any_order(table: Session) -> None:
    assert await rows(table, "select $2, $1, $2", "a", "b") == [("b", "a", "b")]


async def test_column_types(table: Session) -> None:
    assert await table.column_types("t") == {"a": "INTEGER", "b": "TEXT"}
    assert await table.column_types('no"pe') is None


async def test_asking_for_a_table_that_does_not_exist_fails_no_transaction(table: Session) -> None:
    await run(table, "begin")
    await run(table, "insert into t values (9, 'nine')")
    assert await table.column_types("nope") is None
    assert table.status == "T"
    await run(table, "commit")
    assert await rows(table, "select b from t where a = 9") == [("nine",)]


async def test_looking_at_the_schema_takes_no_snapshot(engine: SqlEngine, table: Session) -> None:
    other = engine.session()
    await run(table, "begin")
    await table.column_types("t")
    await table.prepare("select * from t")
    await run(other, "insert into t values (3, 'three')")
    await run(table, "update t set b = 'x' where a = 3")  # else this would be 40001
    assert (await run(table, "commit")).tag == "COMMIT"


# -- transactions, by PostgreSQL's rules


async def test_a_transaction_from_begin_to_commit(table: Session) -> None:
    assert table.status == "I"
    assert (await run(table, "begin")).tag == "BEGIN"
    assert table.status == "T"
    await run(table, "insert into t values (3, 'three')")
    assert (await run(table, "commit")).tag == "COMMIT"
    assert table.status == "I"
    assert len(await rows(table, "select * from t")) == 3


async def test_rollback_leaves_nothing(
    volume: LocalVolume, engine: SqlEngine, table: Session
) -> None:
    await settle()
    commits, log = list(volume.commits), len(volume.log)
    await run(table, "start transaction isolation level serializable")
    await run(table, "create table u(x)")
    await run(table, "insert into t values (3, 'three')")
    assert (await run(table, "abort")).tag == "ROLLBACK"
    assert await rows(table, "select count(*) from t") == [(2,)]
    assert (volume.commits, len(volume.log)) == (commits, log)
    assert engine.pool.tip == volume.vdl
    assert not engine.lock.held


async def test_after_an_error_only_rollback_helps(engine: SqlEngine, table: Session) -> None:
    await run(table, "begin")
    await run(table, "insert into t values (3, 'three')")
    assert (await fails(table, "insert into t values (1, 'again')")).sqlstate == "23505"
    assert table.status == "E"
    assert not engine.lock.held, "a failed client holds up nobody"
    for sql in ("select 1", "begin", "savepoint s", "release s", "nonsense", "insert into t"):
        error = await fails(table, sql)
        assert error.sqlstate in ("25P02", "42601")
        assert table.status == "E"
    assert (await run(table, "")).tag == ""
    assert (await run(table, "commit")).tag == "ROLLBACK"
    assert table.status == "I"
    assert await rows(table, "select count(*) from t") == [(2,)]


async def test_a_syntax_error_fails_the_transaction_too(table: Session) -> None:
    await run(table, "begin")
    error = await fails(table, "selec 1")
    assert (error.sqlstate, error.position) == ("42601", 1)
    assert table.status == "E"
    assert (await run(table, "rollback")).tag == "ROLLBACK"


async def test_an_error_outside_a_transaction_changes_nothing(table: Session) -> None:
    assert (await fails(table, "insert into t values (3, 'x'), (4, 'one')")).sqlstate == "23505"
    assert table.status == "I"
    assert await rows(table, "select count(*) from t") == [(2,)]


async def test_warnings_where_postgresql_warns(table: Session) -> None:
    for sql in ("commit", "rollback"):
        cursor = await table.execute(await table.prepare(sql))
        assert cursor.tag == sql.upper()
        assert cursor.notice is not None
        assert cursor.notice.sqlstate == "25P01"
    await run(table, "begin")
    cursor = await table.execute(await table.prepare("begin"))
    assert (cursor.tag, table.status) == ("BEGIN", "T")
    assert cursor.notice is not None
    assert cursor.notice.sqlstate == "25001"


async def test_savepoints(table: Session) -> None:
    await run(table, "begin")
    await run(table, "insert into t values (3, 'three')")
    assert (await run(table, "savepoint s")).tag == "SAVEPOINT"
    await run(table, "insert into t values (4, 'four')")
    assert (await run(table, "rollback to savepoint s")).tag == "ROLLBACK"
    await run(table, "insert into t values (5, 'five')")
    assert (await run(table, "release s")).tag == "RELEASE"
    await run(table, "commit")
    assert await rows(table, "select a from t order by a") == [(1,), (2,), (3,), (5,)]


async def test_a_savepoint_brings_a_failed_transaction_back(
    engine: SqlEngine, table: Session
) -> None:
    await run(table, "begin")
    await run(table, "insert into t values (3, 'three')")
    await run(table, "savepoint s")
    await fails(table, "insert into t values (1, 'again')")
    assert table.status == "E"
    assert engine.lock.held
    await run(table, "rollback to s")
    assert table.status == "T"
    await run(table, "insert into t values (4, 'four')")
    await run(table, "commit")
    assert await rows(table, "select count(*) from t") == [(4,)]
    assert not engine.lock.held


@pytest.mark.parametrize(
    ("statements", "held"),
    [
        (["savepoint a"], True),
        (["savepoint a", "release a"], False),
        (["savepoint a", "savepoint b", "release A"], False),
        (["savepoint a", "savepoint b", 'release "b"'], True),
        (["savepoint a", "savepoint b", "rollback to [a]"], True),
        (["savepoint a", "savepoint a", "release `A`"], True),
        (["savepoint a", "savepoint a", "release a", "release a"], False),
    ],
)
async def test_a_failed_transaction_keeps_the_lock_only_for_a_savepoint(
    engine: SqlEngine, table: Session, statements: list[str], held: bool
) -> None:
    await run(table, "begin immediate")
    for sql in statements:
        await run(table, sql)
    await fails(table, "insert into t values (1, 'again')")
    assert engine.lock.held is held
    await run(table, "rollback")
    assert not engine.lock.held


@pytest.mark.parametrize("sql", ["savepoint s", "release s", "rollback to s"])
async def test_savepoints_only_in_transactions(table: Session, sql: str) -> None:
    assert (await fails(table, sql)).sqlstate == "25P01"


async def test_a_savepoint_that_does_not_exist(table: Session) -> None:
    await run(table, "begin")
    assert (await fails(table, "rollback to nowhere")).sqlstate == "3B001"
    assert table.status == "E"


async def test_what_sqlite_rolled_back_as_a_whole_no_savepoint_brings_back(
    engine: SqlEngine, table: Session
) -> None:
    await run(table, "begin")
    await run(table, "savepoint s")
    await fails(table, "insert or rollback into t values (1, 'again')")
    assert not engine.lock.held
    assert (await fails(table, "rollback to s")).sqlstate == "3B001"
    assert table.status == "E"
    assert (await run(table, "rollback")).tag == "ROLLBACK"


async def test_a_commit_that_violates_a_deferred_key_is_rolled_back(
    engine: SqlEngine, table: Session
) -> None:
    await run(table, "create table c(x integer references t(a) deferrable initially deferred)")
    await run(table, "begin")
    await run(table, "insert into c values (77)")
    assert (await fails(table, "commit")).sqlstate == "23503"
    assert table.status == "I"
    assert not engine.lock.held
    assert await rows(table, "select count(*) from c") == [(0,)]


async def test_read_only_transactions_refuse_writes(engine: SqlEngine, table: Session) -> None:
    await run(table, "begin read only")
    assert len(await rows(table, "select * from t")) == 2
    error = await fails(table, "insert into t values (3, 'x')")
    assert isinstance(error, ReadOnly)
    assert str(error) == "cannot execute INSERT in a read-only transaction"
    assert (error.sqlstate, table.status) == ("25006", "E")
    await run(table, "rollback")
    table.settings.read_only = True
    assert (await fails(table, "delete from t")).sqlstate == "25006"
    assert (await fails(table, "begin immediate")).sqlstate == "25006"
    await run(table, "begin read write")
    await run(table, "insert into t values (3, 'x')")
    await run(table, "commit")
    assert not engine.lock.held


async def test_vacuum_inside_a_transaction(table: Session) -> None:
    await run(table, "begin")
    assert (await fails(table, "vacuum")).sqlstate == "25001"


async def test_temporary_tables_are_the_sessions_own(engine: SqlEngine, table: Session) -> None:
    other = engine.session()
    await run(table, "create temp table mine(x)")
    await run(table, "insert into mine values (1)")
    assert await rows(table, "select * from mine") == [(1,)]
    assert (await fails(other, "select * from mine")).sqlstate == "42P01"


async def test_foreign_keys_are_enforced(table: Session) -> None:
    await run(table, "create table c(x references t(a))")
    assert (await fails(table, "insert into c values (77)")).sqlstate == "23503"


# -- replicas


async def test_a_replica_reads_and_refuses_writes(volume: LocalVolume, table: Session) -> None:
    await settle()
    engine, feed = volume.replica()
    session = engine.session()
    assert await rows(session, "select * from t") == [(1, "one"), (2, "two")]
    for sql in ("insert into t values (3, 'x')", "create temp table x(a)", "begin immediate"):
        assert isinstance(await fails(session, sql), ReadOnly)
    await run(session, "begin")
    assert len(await rows(session, "select * from t")) == 2
    await run(table, "insert into t values (3, 'three')")
    feed.catch_up()
    assert len(await rows(session, "select * from t")) == 2
    await run(session, "commit")
    assert len(await rows(session, "select * from t")) == 3
    await engine.close()


# -- interruption


async def test_statement_timeout_ends_a_long_query(table: Session) -> None:
    table.settings.statement_timeout_s = 0.02
    endless = "with recursive c(x) as (select 1 union all select x + 1 from c) select max(x) from c"
    error = await fails(table, endless)
    assert (error.sqlstate, str(error)) == ("57014", "canceling statement due to statement timeout")
    assert await rows(table, "select 1") == [(1,)]


async def test_cancel_from_another_task_rolls_the_statement_back(
    engine: SqlEngine, table: Session
) -> None:
    task = await parked(
        run(
            table,
            "insert into t with recursive c(x) as (select 10 union all select x + 1 from c)"
            " select x, 'row ' || x from c",
        )
    )
    table.cancel()
    with pytest.raises(QueryCanceled, match="user request"):
        await task
    assert not engine.lock.held
    assert await rows(table, "select count(*) from t") == [(2,)]
    assert await rows(table, "pragma integrity_check") == [("ok",)]


async def test_a_long_query_lets_others_run(engine: SqlEngine, table: Session) -> None:
    other = engine.session()
    query = (
        "with recursive c(x) as (select 1 union all select x + 1 from c where x < 200000)"
        " select max(x) from c"
    )
    long = asyncio.create_task(rows(table, query))
    await asyncio.sleep(0)
    for number in range(10, 20):
        await run(other, "insert into t values ($1, $1)", number)
    assert not long.done()
    assert await long == [(200000,)]


async def test_cancelling_an_idle_session_does_nothing(table: Session) -> None:
    table.cancel()
    assert await rows(table, "select 1") == [(1,)]


async def test_a_cancelled_task_unwinds_and_the_session_lives(
    engine: SqlEngine, table: Session
) -> None:
    await run(table, "begin")
    await run(table, "insert into t values (3, 'three')")
    task = await parked(
        run(
            table,
            "with recursive c(x) as (select 1 union all select x from c) select max(x) from c",
        )
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert table.status == "E"
    assert not engine.lock.held
    await run(table, "rollback")
    assert await rows(table, "select count(*) from t") == [(2,)]


async def test_cancelled_while_a_page_is_being_fetched(volume: LocalVolume, table: Session) -> None:
    await settle()
    engine = volume.writer(capacity=8)
    session = engine.session()
    await run(session, "select 1 from t")
    volume.gate.clear()
    engine.pool.reset(volume.vdl)
    task = await parked(run(session, "insert into t values (3, 'x')"))
    session.cancel()
    with pytest.raises(QueryCanceled):
        await task
    assert not engine.lock.held
    volume.gate.set()
    await run(session, "insert into t values (3, 'x')")
    assert await rows(session, "pragma integrity_check") == [("ok",)]
    await engine.close()


# -- life


async def test_one_task_at_a_time(table: Session) -> None:
    task = await parked(
        rows(
            table,
            "with recursive c(x) as (select 1 union all select x from c) select max(x) from c",
        )
    )
    with pytest.raises(SessionBusy):
        await run(table, "select 1")
    table.cancel()
    with pytest.raises(QueryCanceled):
        await task


async def test_close_interrupts_rolls_back_and_frees(engine: SqlEngine, table: Session) -> None:
    await run(table, "begin")
    await run(table, "insert into t values (3, 'three')")
    task = await parked(
        rows(
            table,
            "with recursive c(x) as (select 1 union all select x from c) select max(x) from c",
        )
    )
    await table.close()
    await table.close()
    with pytest.raises(SessionClosed):
        await task
    assert not engine.lock.held
    assert engine.sessions == 0
    assert engine.pool.min_pinned() == engine.pool.visible.lsn
    with pytest.raises(SessionClosed):
        await run(table, "select 1")
    other = engine.session()
    assert await rows(other, "select count(*) from t") == [(2,)]


async def test_a_closed_engine_makes_no_sessions(volume: LocalVolume) -> None:
    engine = volume.writer()
    session = engine.session("me", "here")
    assert (session.user, session.database) == ("me", "here")
    await run(session, "create table t(a)")
    await engine.close()
    await engine.close()
    with pytest.raises(SessionClosed):
        engine.session()
    with pytest.raises(SessionClosed):
        await run(session, "select 1")


async def test_the_heap_limit_fails_a_statement_not_the_process(volume: LocalVolume) -> None:
    engine = volume.writer(settings=SqlSettings(heap_bytes_max=24 * 1024 * 1024))
    session = engine.session()
    await run(session, "create table t(a)")
    await run(session, "begin")
    error = await fails(
        session,
        "with recursive c(x) as (select 1 union all select x + 1 from c where x < 64)"
        " insert into t select zeroblob(1 << 20) from c",
    )
    assert error.sqlstate == "53200"
    await run(session, "rollback")
    assert await rows(session, "select count(*) from t") == [(0,)]
    await engine.close()
    await volume.writer().close()  # the limit is the process's: put it back


async def test_attach_is_not_there(table: Session) -> None:
    assert isinstance(await fails(table, "attach 'x' as y"), FeatureNotSupported)
