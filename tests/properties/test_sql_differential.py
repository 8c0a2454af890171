"""Random SQL from several sessions against plain SQLite, side by side.

The plain database is one connection in memory. Only one transaction writes at a time, so it can run
every write live; a reader's snapshot is a serialized copy of it. Each statement must end the same
way on both sides: the same rows, counts and kinds of error. At every commit, while it is not yet
durable, a reader must still see the state before. A replica with a tiny cache is compared too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import apsw
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from engine.errors import SqlError
from engine.sql.session import Session
from engine.sql.statement import Row
from tests.sql.client import rows as rows_of
from tests.sql.client import run, settle
from tests.sql.local_volume import LocalVolume

Draw = Callable[[int], int]

SESSIONS = 3
TABLES = ("t0", "t1")


def plain_database(image: bytes = b"") -> apsw.Connection:
    db = apsw.Connection(":memory:")
    if image:
        db.deserialize("main", image)
    db.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    db.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
    return db


def contents(db: apsw.Connection) -> dict[str, list[Row]]:
    return {sql: db.execute(sql).fetchall() for sql in whole(db.execute(SCHEMA).fetchall())}


SCHEMA = "select type, name, tbl_name, sql from sqlite_schema order by name"


def whole(schema: list[Row]) -> list[str]:
    return [
        SCHEMA,
        *(f"select * from {name} order by 1" for kind, name, *_ in schema if kind == "table"),
    ]


class Statements:
    """Random SQL that means the same wherever it runs."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw

    def pick(self, *choices: str) -> str:
        return choices[self.draw(len(choices))]

    def value(self) -> str:
        number = self.draw(12)
        size = (3, 40, 300, 3000, 9000)[self.draw(5)]
        return self.pick(
            "null",
            str(number),
            str(-number * 10**12),
            f"{number}.5",
            f"'text {number}'",
            f"printf('%0{size}d', {number})",
            f"zeroblob({size})",
        )

    def where(self) -> str:
        number = self.draw(30)
        return self.pick("", f"where a = {number}", f"where a > {number}", f"where b < {number}")

    def write(self) -> str:
        table, number = self.pick(*TABLES), self.draw(30)
        many = self.draw(40)
        return self.pick(
            *[f"insert into {table}(a, b) values ({number}, {self.value()})"] * 3,
            *[f"insert or replace into {table}(a, b) values ({number}, {self.value()})"] * 2,
            f"insert into {table}(b) values ({self.value()}), ({self.value()}) returning *",
            f"insert into {table}(b) with recursive c(x) as (select 1 union all select x + 1 from c"
            f" where x < {many}) select printf('%0100d', x) from c",
            *[f"update {table} set b = {self.value()} {self.where()}"] * 3,
            f"update {table} set b = {self.value()} {self.where()} returning a, typeof(b)",
            *[f"delete from {table} {self.where()}"] * 2,
            f"create table {table}(a integer primary key, b)",
            f"create table if not exists {table}(a integer primary key, b)",
            f"drop table if exists {table}",
            f"create index if not exists i{table} on {table}(b)",
            f"drop index if exists i{table}",
            f"create unique index if not exists u{table} on {table}(typeof(b), a)",
            f"alter table {table} add column c{number % 3} default {number}",
            "create table if not exists child(x references t0(a))",
            f"insert into child values ({number})",
            f"pragma user_version = {number}",
            "analyze",
        )

    def read(self) -> str:
        table = self.pick(*TABLES)
        return self.pick(
            f"select * from {table} {self.where()} order by a",
            f"select count(*), sum(length(b)), min(a), max(b) from {table}",
            f"select typeof(b), count(*) from {table} group by 1 order by 1",
            "select count(*) from sqlite_schema",
            f"select x.a from t0 x join t1 y on x.b = y.b where x.a < {self.draw(30)} order by 1",
        )


class Client:
    """A session, and the plain SQLite that it is compared with while it is in a transaction."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.snapshot: apsw.Connection | None = None
        self.savepoints: list[str] = []


class World:
    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.sql = Statements(draw)
        self.volume = LocalVolume()
        self.volume.hold()
        self.engine = self.volume.writer(capacity=6)
        self.clients = [Client(self.engine.session()) for _ in range(SESSIONS)]
        for client in self.clients:
            client.session.settings.lock_timeout_s = 0.0005
        self.watcher = self.engine.session()
        replica, self.feed = self.volume.replica(capacity=6)
        self.replica = Client(replica.session())
        self.plain = plain_database()
        self.committed = self.plain.serialize("main")
        self.on_replica = self.committed  # what it has caught up to
        self.writer: Client | None = None
        self.commits = 0

    # -- one statement on both sides

    async def ours(self, session: Session, sql: str) -> tuple[str, object]:
        """(sqlstate, (tag, rows)); whatever must be durable first becomes so, but not at once."""
        task = asyncio.ensure_future(run(session, sql))
        while not task.done():
            await settle(30)
            if self.volume.commits[-1] != self.volume.vdl:
                await self.nobody_sees_more_than_is_durable()
                self.volume.make_durable()
        try:
            result = await task
        except SqlError as error:
            return error.sqlstate, None
        return "", result

    def theirs(self, db: apsw.Connection, sql: str) -> tuple[bool, list[Row], int]:
        try:
            found = db.execute(sql).fetchall()
        except apsw.Error:
            return False, [], 0
        return True, found, db.changes()

    async def nobody_sees_more_than_is_durable(self) -> None:
        self.commits += 1
        if self.committed:
            before = plain_database(self.committed)
            for sql, expected in contents(before).items():
                assert await rows_of(self.watcher, sql) == expected
            before.close()

    def same(self, sql: str, ours: tuple[str, object], theirs: tuple[bool, list[Row], int]) -> None:
        sqlstate, result = ours
        worked, found, changes = theirs
        assert (sqlstate == "") == worked, (sql, sqlstate, found)
        if worked:
            tag, rows = result  # type: ignore[misc]
            assert rows == found, sql
            word = sql.split()[0].upper()
            if word in ("INSERT", "UPDATE", "DELETE"):
                assert int(tag.split()[-1]) == changes, sql

    # -- steps

    async def step(self) -> None:
        client = self.clients[self.draw(SESSIONS)]
        if client.session.status == "I":
            await self.outside(client)
        else:
            await self.inside(client)
        if self.draw(4) == 0:
            await self.replica_step()
        if self.draw(12) == 0:
            await self.compare()

    async def outside(self, client: Client) -> None:
        kind = self.draw(10)
        if kind < 4:
            await self.autocommit(client, self.sql.write())
        elif kind == 4:
            await self.autocommit(client, "vacuum")
        elif kind < 7:
            sql = self.sql.read()
            before = plain_database(self.committed)
            self.same(sql, await self.ours(client.session, sql), self.theirs(before, sql))
            before.close()
        else:
            await self.begin(client, "begin" if kind < 9 else "begin immediate")

    async def autocommit(self, client: Client, sql: str) -> None:
        ours = await self.ours(client.session, sql)
        if self.writer is not None:
            assert ours[0] == "55P03" or ours[0].startswith("42"), ours
            return
        self.same(sql, ours, self.theirs(self.plain, sql))
        self.committed = self.plain.serialize("main")

    async def begin(self, client: Client, sql: str) -> None:
        sqlstate, _ = await self.ours(client.session, sql)
        if sql != "begin" and self.writer is not None:
            assert sqlstate == "55P03"
            return
        assert sqlstate == ""
        client.savepoints.clear()
        if sql != "begin":
            self.plain.execute("begin")
            self.writer = client

    async def inside(self, client: Client) -> None:
        kind = self.draw(20)
        if client.session.status == "E":
            if client.savepoints and kind < 10 and self.writer is client:
                await self.savepoint(client, "rollback to")
            else:
                await self.end(client, "rollback" if kind < 15 else "commit")
        elif kind < 8:
            await self.write(client)
        elif kind < 12:
            await self.read(client)
        elif kind < 16 and self.writer is client:
            await self.savepoint(client, self.sql.pick("savepoint", "rollback to", "release"))
        elif kind < 19:
            await self.end(client, "commit")
        else:
            await self.end(client, "rollback")

    async def write(self, client: Client) -> None:
        sql = self.sql.write()
        stale = client.snapshot is not None and (
            contents(client.snapshot) != contents_of(self.committed)
        )
        ours = await self.ours(client.session, sql)
        if self.writer is None and ours[0] != "40001" and client.session.status == "T":
            assert not stale, "wrote on a snapshot that others had changed"
            self.plain.execute("begin")
            self.writer = client
        if self.writer is not client:
            if self.writer is None and client.snapshot is None:
                self.plain.execute("begin")
                self.same(sql, ours, self.theirs(self.plain, sql))
                self.plain.execute("rollback")
            elif self.writer is not None:
                assert ours[0] == "55P03" or ours[0].startswith("42"), ours
            self.forget_snapshot(client)
            return
        self.forget_snapshot(client)
        self.same(sql, ours, self.theirs(self.plain, sql))
        self.after_error(client)

    async def read(self, client: Client) -> None:
        sql = self.sql.read()
        ours = await self.ours(client.session, sql)
        if self.writer is client:
            self.same(sql, ours, self.theirs(self.plain, sql))
            self.after_error(client)
            return
        if client.snapshot is None:
            client.snapshot = plain_database(self.committed)
        self.same(sql, ours, self.theirs(client.snapshot, sql))
        if client.session.status == "E":
            self.forget_snapshot(client)

    def after_error(self, client: Client) -> None:
        """Without a savepoint our side has rolled back at once; the plain one must be told."""
        if client.session.status == "E" and not client.savepoints:
            self.plain.execute("rollback")
            self.writer = None

    async def savepoint(self, client: Client, verb: str) -> None:
        if verb == "savepoint":
            client.savepoints.append(f"s{len(client.savepoints)}")
        elif not client.savepoints:
            return
        at = self.draw(len(client.savepoints)) if verb != "savepoint" else -1
        sql = f"{verb} {client.savepoints[at]}"
        ours = await self.ours(client.session, sql)
        self.same(sql, ours, self.theirs(self.plain, sql))
        if verb == "rollback to":
            del client.savepoints[at + 1 :]
        elif verb == "release":
            del client.savepoints[at:]

    async def end(self, client: Client, sql: str) -> None:
        failed = client.session.status == "E"
        sqlstate, result = await self.ours(client.session, sql)
        assert client.session.status == "I"
        if self.writer is client:
            self.same(
                sql, (sqlstate, result), self.theirs(self.plain, "rollback" if failed else sql)
            )
            self.writer = None
            self.committed = self.plain.serialize("main")
        else:
            assert sqlstate == ""
        self.forget_snapshot(client)

    def forget_snapshot(self, client: Client) -> None:
        if client.snapshot is not None:
            client.snapshot.close()
            client.snapshot = None

    # -- replica, and everything

    async def replica_step(self) -> None:
        client, kind = self.replica, self.draw(4)
        if kind == 0:
            self.feed.catch_up()
            self.on_replica = self.committed
        elif kind == 1 and client.session.status == "I":
            await run(client.session, "begin")
        elif kind == 2 and client.session.status != "I":
            await run(client.session, "commit")
            self.forget_snapshot(client)
        elif client.session.status != "E":
            sql = self.sql.read()
            db = client.snapshot or plain_database(self.on_replica)
            self.same(sql, await self.ours(client.session, sql), self.theirs(db, sql))
            if client.session.status == "T":
                client.snapshot = db
            elif client.session.status == "E":
                await run(client.session, "rollback")
                client.snapshot = db
                self.forget_snapshot(client)
            else:
                db.close()

    async def compare(self) -> None:
        expected = contents_of(self.committed)
        for sql, found in expected.items():
            assert await rows_of(self.watcher, sql) == found
        assert await rows_of(self.watcher, "pragma integrity_check") == [("ok",)]
        if self.replica.session.status == "I":
            for sql, found in contents_of(self.on_replica).items():
                assert await rows_of(self.replica.session, sql) == found
            assert await rows_of(self.replica.session, "pragma integrity_check") == [("ok",)]

    async def finish(self) -> None:
        for client in self.clients:
            if client.session.status != "I":
                await self.end(client, "rollback")
        if self.replica.session.status != "I":
            await run(self.replica.session, "rollback")
            self.forget_snapshot(self.replica)
        self.feed.catch_up()
        self.on_replica = self.committed
        await self.compare()
        assert not self.engine.lock.held
        if self.volume.vdl.pages:
            stored = plain_database(self.volume.database(self.volume.vdl))
            assert contents(stored) == contents_of(self.committed)
            stored.close()
        self.plain.close()
        for session in (*(c.session for c in self.clients), self.watcher, self.replica.session):
            await session._engine.close()
        assert self.engine.pool.min_pinned() == self.engine.pool.visible.lsn


def contents_of(image: bytes) -> dict[str, list[Row]]:
    db = plain_database(image)
    found = contents(db)
    db.close()
    return found


async def play(draw: Draw, steps: int) -> World:
    world = World(draw)
    for _ in range(steps):
        await world.step()
    await world.finish()
    return world


@settings(max_examples=40, deadline=None)
@given(data=st.data(), steps=st.integers(1, 30))
def test_short_histories(data: st.DataObject, steps: int) -> None:
    asyncio.run(play(lambda n: data.draw(st.integers(0, n - 1)), steps))


@pytest.mark.parametrize("seed", range(6))
async def test_long_histories(seed: int) -> None:
    world = await play(random.Random(seed).randrange, 400)
    assert world.commits > 20
