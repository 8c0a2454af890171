"""What an answer rests on: it waits for that, and for nothing else.

`wide` has one row to a page. From the fixture on nothing becomes durable by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CommitUnknown, QueryCanceled, SqlError
from engine.sql.blind import is_blind, remembers
from engine.sql.connection import Connection as SqlConnection
from engine.sql.engine import SqlEngine, SqlSettings
from engine.sql.session import Session
from tests.sql.client import Result, parked, rows, run, settle
from tests.sql.local_volume import LocalVolume

SCHEMA = (
    "create table wide(a integer primary key, b integer, filler text)",
    "create table plain(x integer, y text)",
    "create table once(k integer unique)",
    "insert into wide with n(v) as (select 1 union all select v + 1 from n where v < 6)"
    " select v, 0, hex(zeroblob(1500)) from n",
    "insert into plain values (0, 'first')",
    "insert into once values (0)",
)


@pytest.fixture
async def other(volume: LocalVolume, engine: SqlEngine) -> Session:
    """A session that commits what nobody may be told of."""
    session = engine.session()
    for sql in SCHEMA:
        await run(session, sql)
    await settle()
    volume.hold()
    return session


@pytest.fixture
async def writing(other: Session, engine: SqlEngine) -> Session:
    session = engine.session()
    await run(session, "begin immediate")
    await run(session, "rollback")  # it has a connection
    return session


async def commit(session: Session, sql: str) -> asyncio.Task[Result]:
    return await parked(run(session, sql))


async def test_a_row_elsewhere_does_not_wait(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    first = await commit(other, "update wide set b = 1 where a = 2")
    await run(writing, "begin")
    assert (await run(writing, "update wide set b = 2 where a = 5")).tag == "UPDATE 1"
    assert await rows(writing, "select b from wide where a = 5") == [(2,)]
    last = await parked(run(writing, "commit"))
    assert volume.vdl.lsn < volume.commits[-2].lsn, "two commits share what becomes durable"
    volume.make_durable()
    assert (await last).tag == "COMMIT"
    await first


@pytest.mark.parametrize(
    "sql",
    [
        "update wide set b = 2 where a = 2",
        "update wide set b = 2 where b = 0",
        "select b from wide where a = 2",
        "delete from wide where a = 2",
        "insert into wide(a) values (2) on conflict do nothing",
        "insert into plain select b, a from wide where a = 2",
        "insert into plain values ((select b from wide where a = 2), '')",
    ],
)
async def test_what_reads_a_page_that_is_not_durable_waits(
    volume: LocalVolume, other: Session, writing: Session, sql: str
) -> None:
    first = await commit(other, "update wide set b = 1")
    await run(writing, "begin immediate")
    task = await parked(run(writing, sql))
    volume.make_durable()
    await asyncio.gather(task, first)


async def test_a_plain_insert_does_not_wait_and_what_tells_of_it_does(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    first = await commit(other, "insert into plain values (1, 'theirs')")
    await run(writing, "begin")
    assert (await run(writing, "insert into plain values (2, 'ours')")).tag == "INSERT 0 1"
    task = await parked(rows(writing, "select last_insert_rowid()"))
    volume.make_durable()
    assert await task == [(3,)]
    await first


async def test_what_sqlite_still_remembers_counts_in_the_next_transaction(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    """It reads no page again while the state is the same."""
    first = await commit(other, "update wide set b = 1 where a = 2")
    await run(writing, "begin immediate")
    assert (await run(writing, "insert into plain values (2, 'ours')")).tag == "INSERT 0 1"
    task = await parked(rows(writing, "select b from wide where a = 2"))
    writing.cancel()
    with pytest.raises(SqlError):
        await task
    volume_reads = len(volume.reads)
    writing.answer_later(True)
    await run(writing, "rollback")
    await run(writing, "begin immediate")
    assert await rows(writing, "select b from wide where a = 2") == [(1,)]
    assert writing.owes()
    assert len(volume.reads) == volume_reads
    volume.make_durable()
    await writing.settle()
    await first


async def test_rows_that_come_later_wait_for_their_own_pages(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    first = await commit(other, "update wide set b = 1 where a = 6")
    await run(writing, "begin immediate")
    sql = (
        "with n(v) as (select 1 union all select v + 1 from n where v < 40)"
        " select wide.a, wide.b, n.v from wide cross join n"
    )
    cursor = await writing.execute(await writing.prepare(sql))
    assert len(await cursor.fetch(64)) == 64
    task = await parked(cursor.fetch())
    volume.make_durable()
    assert (await task)[-1] == (6, 1, 40)
    await first


async def test_the_size_of_the_volume_is_of_page_1(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    first = await commit(other, "insert into wide values (99, 0, hex(zeroblob(9000)))")
    await run(writing, "begin")
    assert volume.commits[-1].pages > volume.vdl.pages
    task = await parked(
        rows(writing, "update plain set x = 1 returning (select * from pragma_page_count)")
    )
    volume.make_durable()
    assert await task == [(volume.vdl.pages,)]
    await first


async def test_a_schema_that_is_not_durable_holds_up_everything(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    """What there is of tables, any statement may tell."""
    made = await commit(other, "create table fresh(a)")
    writing.answer_later(True)
    await run(writing, "begin immediate")
    writing.answer_later(False)
    task = await parked(run(writing, "insert into fresh values (1)"))
    volume.make_durable()
    assert (await task).tag == "INSERT 0 1"
    await made


async def test_a_plain_insert_rests_on_the_schema(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    insert = await writing.prepare("insert into plain values (1, 'ours')")
    made = await commit(other, "create table fresh(a)")
    await run(writing, "begin")
    task = await parked(writing.execute(insert))
    volume.make_durable()
    assert (await task).tag == "INSERT 0 1"
    await made


async def test_plain_inserts_one_after_the_other_do_not_wait(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    first = await commit(other, "insert into plain values (1, 'theirs')")
    await run(writing, "begin")
    for number in range(3):
        assert (await run(writing, "insert into plain values ($1, '')", number)).tag == "INSERT 0 1"
    last = await parked(run(writing, "commit"))
    volume.make_durable()
    await asyncio.gather(first, last)


@pytest.mark.parametrize(
    "sql",
    [
        "; insert into plain values (2, 'ours')",  # EXPLAIN of it is no statement
        f"insert into plain values (2, '{'x' * 5000}')",  # too long to look at
    ],
)
async def test_who_cannot_be_looked_at_waits(
    volume: LocalVolume, other: Session, writing: Session, sql: str
) -> None:
    first = await commit(other, "insert into plain values (1, 'theirs')")
    await run(writing, "begin")
    task = await parked(run(writing, sql))
    volume.make_durable()
    assert (await task).tag == "INSERT 0 1"
    await run(writing, "rollback")
    await first
    volume.hold()
    again = await parked(run(writing, sql))
    volume.make_durable()
    assert (await again).tag == "INSERT 0 1"


async def test_a_number_of_the_state_is_of_the_whole_base(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    """SQLite counts `data_version` up whatever has changed."""
    first = await commit(other, "insert into plain values (1, 'theirs')")
    await run(writing, "begin")
    await run(writing, "update wide set b = 3 where a = 4")
    task = await parked(rows(writing, "select * from pragma_data_version"))
    volume.make_durable()
    await asyncio.gather(task, first)


@pytest.mark.parametrize(
    ("write", "question"),
    [
        ("insert into plain select a, 'ours' from wide", "select last_insert_rowid()"),
        ("update plain set y = 'ours'", "select a, total_changes() from wide"),
        ("create temp table kept as select x from plain", "select * from kept"),
        ("update plain set y = 'ours'", "pragma data_version"),
    ],
)
async def test_what_a_connection_remembers_of_a_write_given_up_waits(
    volume: LocalVolume, other: Session, writing: Session, write: str, question: str
) -> None:
    first = await commit(other, "insert into plain select a, 'theirs' from wide")
    task = await parked(run(writing, write))
    writing.cancel()
    with pytest.raises(SqlError):
        await task
    assert await rows(writing, "select count(*) from plain") == [(1,)], "this tells of nothing"
    asked = await parked(rows(writing, question))
    volume.make_durable()
    await asyncio.gather(asked, first)


async def test_a_commit_of_its_own_that_is_not_durable_counts(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    """SQLite has its pages and reads none of them again."""
    task = await parked(run(writing, "update wide set b = 7 where a = 2"))
    writing.cancel()
    with pytest.raises(CommitUnknown):
        await task
    begun = await parked(run(writing, "begin immediate"))
    volume.make_durable()
    await begun
    assert await rows(writing, "select b from wide where a = 2") == [(7,)]


async def test_who_commits_waits_for_that_and_is_not_looked_at(
    volume: LocalVolume, other: Session, writing: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(SqlConnection, "explains")
    first = await commit(other, "insert into plain values (1, 'theirs')")
    second = await commit(writing, "insert into plain values (2, 'ours')")
    volume.make_durable()
    await asyncio.gather(first, second)


async def test_what_is_cancelled_has_not_committed_whenever_that_comes(volume: LocalVolume) -> None:
    """SQLite has some steps left when the commit is made, and at each of these it may be stopped."""
    engine = volume.writer(settings=SqlSettings(progress_steps=1))
    session = engine.session()
    await run(session, "create table t(a)")
    insert = await session.prepare("insert into t values (1), (2), (3)")
    cancelled = 0
    for turns in range(1, 500):
        task = asyncio.ensure_future(session.execute(insert))
        await settle(turns)
        if task.done():
            break
        session.cancel()
        await asyncio.gather(task, return_exceptions=True)
        count = (await rows(session, "select count(*) from t"))[0][0]
        if isinstance(task.exception(), QueryCanceled):
            cancelled += 1
            assert count == 0, turns
        else:
            assert isinstance(task.exception(), CommitUnknown), turns
        assert not session.commits
        await run(session, "delete from t")
    assert cancelled > 5
    await engine.close()


async def test_an_error_waits_for_all(
    volume: LocalVolume, other: Session, writing: Session
) -> None:
    first = await commit(other, "update wide set b = 1 where a = 2")
    await run(writing, "begin")
    task = await parked(run(writing, "insert into wide(a) values (5)"))
    volume.make_durable()
    with pytest.raises(SqlError, match="UNIQUE"):
        await task
    await first


# -- programs


@pytest.mark.parametrize(
    ("sql", "blind"),
    [
        ("insert into h(a, b) values (?1, current_timestamp)", True),
        ("insert into h values (1, 2, 3), (4, 5, 6)", True),
        ("insert into h default values", True),
        ("insert or ignore into h(a) values (1)", True),
        ("insert into s values (1, 'x')", True),
        ("insert into u values (1)", False),
        ("insert into k(b) values (1)", True),
        ("insert into k(a) values (1)", False),
        ("insert into auto(b) values (1)", False),
        ("insert into w values (1, 2)", False),
        ("insert into c values (5)", False),
        ("insert into child values (1)", False),
        ("insert into seen values (1)", False),
        ("insert into h(a) values (1) returning rowid", False),
        ("insert into h(a) select a from k", False),
        ("insert into h(a) values ((select max(a) from k))", False),
        ("insert into h(a) values (last_insert_rowid())", False),
        ("insert into h(a) values (Changes())", False),
        ("insert into h(a) values (unhex(rtreecheck('h'), 'x'))", False),
        ("replace into u values (1)", False),
        ("insert into v values (1)", False),
        ("update h set a = 1", False),
        ("delete from h", False),
    ],
)
def test_a_program_is_blind_if_its_answer_is_the_same_on_any_rows(sql: str, blind: bool) -> None:
    db = apsw.Connection(":memory:")
    db.execute(
        """
        pragma foreign_keys = on;
        create table h(a, b, c);
        create index on_h on h(b);
        create table s(a int not null, b text) strict;
        create table u(a unique);
        create table k(a integer primary key, b);
        create table auto(a integer primary key autoincrement, b);
        create table w(a integer primary key, b) without rowid;
        create table c(a check (a > 3));
        create table child(a references k(a));
        create table seen(a);
        create trigger on_seen after insert on seen begin delete from h; end;
        create view v as select a from k;
        create trigger on_v instead of insert on v begin insert into h(a) values (1); end;
        """
    )
    values = (1,) if "?1" in sql else ()
    assert is_blind(db.execute(f"explain {sql}", values).fetchall()) is blind


@pytest.mark.parametrize(
    ("sql", "does"),
    [
        ("select a from t", False),
        ("select last_insert_rowid()", True),
        ("select a from t where b = TOTAL_CHANGES()", True),
        ("select * from kept", True),
        ("select a from t where b in (select n from kept)", True),
        ("select * from counted", True),
        ("select name from sqlite_temp_schema", False),
    ],
)
def test_a_program_remembers_if_it_tells_of_earlier_statements(sql: str, does: bool) -> None:
    db = apsw.Connection(":memory:")
    db.execute(
        "create table t(a integer primary key, b); create temp table kept(n);"
        "create temp view counted as select changes() as n"
    )
    assert remembers(db.execute(f"explain {sql}").fetchall()) is does


# -- any statements: what is told early is what the durable state would have told

NUMBER = st.integers(1, 6)

CHANGE = st.one_of(
    st.builds("update wide set b = b + 1 where a = {}".format, NUMBER),
    st.builds("update wide set b = {} where b = {}".format, NUMBER, NUMBER),
    st.builds("delete from wide where a = {}".format, NUMBER),
    st.builds("insert or ignore into wide values ({}, 7, hex(zeroblob(1500)))".format, NUMBER),
    st.builds("insert into plain values ({}, 'x')".format, NUMBER),
    st.builds("insert or ignore into once values ({})".format, NUMBER),
    st.builds("delete from plain where x = {}".format, NUMBER),
    st.builds("insert into plain select a, 'copied' from wide where b = {}".format, NUMBER),
    st.just("alter table plain add column z"),
    st.just("insert into plain(x) values (1), (2)"),
)
QUESTION = st.one_of(
    st.builds("select b from wide where a = {}".format, NUMBER),
    st.sampled_from(
        [
            "select count(*) from plain",
            "select k from once order by k",
            "select sum(b) from wide",
            "select last_insert_rowid(), changes()",
            "select total_changes()",
            "create temp table if not exists kept as select count(*) as n from plain",
            "select n from temp.kept",
            "pragma page_count",
            "savepoint s",
        ]
    ),
)


class Reference:
    """SQLite itself, on what was durable; the same statements."""

    def __init__(self, changes: Sequence[str]) -> None:
        self.db = apsw.Connection(":memory:")
        self.db.pragma("page_size", 4096)
        for sql in (*SCHEMA, *changes):
            self.run(sql)
        made, self.db = self.db.serialize("main"), apsw.Connection(":memory:")
        self.db.deserialize("main", made)

    def run(self, sql: str) -> object:
        try:
            found = self.db.execute(sql).fetchall()
        except apsw.SQLError:
            return "failed"
        return found, self.db.changes() if not sql.startswith(("select", "pragma")) else 0


@given(
    changes=st.lists(CHANGE, min_size=1, max_size=4),
    durable=st.integers(0, 4),
    asked=st.lists(st.one_of(QUESTION, CHANGE), min_size=1, max_size=6),
    before=st.lists(st.one_of(QUESTION, CHANGE), max_size=3),
    outside=st.lists(QUESTION.filter(lambda sql: sql.startswith(("select", "pragma"))), max_size=2),
)
async def test_what_is_told_early_is_what_the_durable_state_tells(
    changes: list[str], durable: int, asked: list[str], before: list[str], outside: list[str]
) -> None:
    """`before` is asked in a transaction that is rolled back: SQLite remembers its pages. `outside` of it
    the connection remembers what a statement did that was given up while it waited."""
    volume = LocalVolume()
    engine = volume.writer()
    other, session = engine.session(), engine.session()
    for sql in SCHEMA:
        await run(other, sql)
    await settle()
    volume.hold()
    lost = []
    at = [volume.commits[-1]]
    for sql in changes:
        lost.append(asyncio.ensure_future(run(engine.session(), sql)))
        await settle()
        at.append(volume.commits[-1])
    count = min(durable, len(changes))
    volume.make_durable(at[count])
    await settle()
    reference = Reference(changes[:count])

    for transaction in (before, asked):
        session.answer_later(True)  # of what begins and ends it
        await run(session, "begin immediate")
        session.answer_later(False)
        reference.db.execute("begin")
        for sql in transaction:
            task = asyncio.ensure_future(run(session, sql))
            await settle(60)
            if not task.done():
                session.cancel()
                await asyncio.gather(task, return_exceptions=True)
                break
            if task.exception() is not None:
                assert volume.vdl == volume.commits[-1], "an error waits for all"
                break
            told = task.result()
            expected = reference.run(sql)
            changed = int(told.tag.split()[-1]) if told.tag[-1].isdigit() else 0
            counts = sql.startswith(("insert", "update", "delete"))
            assert expected != "failed", sql
            assert isinstance(expected, tuple)
            assert told.rows == expected[0], sql
            assert not counts or changed == expected[1], sql
        session.answer_later(True)
        await run(session, "rollback")
        session.answer_later(False)
        reference.db.execute("rollback")
        for sql in outside:
            task = asyncio.ensure_future(run(session, sql))
            await settle(60)
            if not task.done():
                session.cancel()
                await asyncio.gather(task, return_exceptions=True)
            elif task.exception() is None:
                assert (task.result().rows, 0) == reference.run(sql), sql
    volume.make_durable()
    await asyncio.gather(*lost, return_exceptions=True)
    await engine.close()
