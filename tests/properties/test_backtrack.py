"""Backtracking among random commits: what anybody reads afterwards is what the database was.

The sessions that matter sleep: a connection that has cached pages, or a prepared statement, and looks again
after the database has gone back, and on in another direction. One is on the writer, one on a replica.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import hypothesis.strategies as st
from hypothesis import given, settings

from engine.instance.backtrack import ChunkStream, backtrack_database
from engine.net.pb import instance_pb2 as pb
from engine.net.pb.storage_pb2 import CommitPoint
from engine.sql.header import counter_of, keep, next_number, put_back, same_contents, show
from engine.sql.session import Session
from engine.steps import OFF
from engine.types import PAGE_SIZE, CommitMark
from tests.sql.client import rows, settle
from tests.sql.local_volume import LocalVolume

Dump = list[tuple[Any, ...]]

TURN = 1 << 32
numbers = st.one_of(st.integers(0, TURN - 1), st.integers(0, 3), st.integers(TURN - 4, TURN - 1))


@given(current=numbers, ahead=st.integers(-(TURN // 2) + 1, TURN // 2 - 1))
def test_a_number_comes_after_both(current: int, ahead: int) -> None:
    past = (current + ahead) % TURN
    after = next_number(current, past)
    assert 0 < (after - current) % TURN <= TURN // 2
    assert 0 < (after - past) % TURN <= TURN // 2


@given(
    past=st.binary(min_size=100, max_size=100),
    current=st.binary(min_size=100, max_size=100),
    pages=st.integers(1, TURN - 1),
)
def test_the_header_is_that_of_then_with_numbers_that_nobody_has_seen(
    past: bytes, current: bytes, pages: int
) -> None:
    page = put_back(past + b"rows", current + b"other rows", pages)
    cookie = page[40:44]
    assert page[92:96] == page[24:28] == current[24:28]
    assert cookie not in (past[40:44], current[40:44])
    assert int.from_bytes(page[28:32], "big") == pages
    kept = [slice(24), slice(32, 40), slice(44, 92), slice(96, None)]
    assert [page[part] for part in kept] == [(past + b"rows")[part] for part in kept]
    assert same_contents(page, past[:28] + page[28:32] + past[32:] + b"rows")
    assert not same_contents(page, page[:-1] + b"x")


@given(page=st.binary(min_size=100, max_size=120), counter=numbers, other=st.binary(min_size=100))
def test_a_counter_is_shown_in_place_of_the_one_that_is_kept(
    page: bytes, counter: int, other: bytes
) -> None:
    shown = show(page, counter)
    assert counter_of(shown) == counter
    assert (shown[92:96] == shown[24:28]) is (page[92:96] == page[24:28]), "the size is as valid"
    whole = page[:92] + page[24:28] + page[96:]
    written = show(whole, counter)
    assert keep(written, whole) == whole, "nothing but the counter has changed"
    kept = keep(written, other)
    assert kept[24:28] == kept[92:96] == other[24:28]
    rest = [slice(24), slice(28, 92), slice(96, None)]
    assert (
        [kept[part] for part in rest]
        == [shown[part] for part in rest]
        == [page[part] for part in rest]
    )


class Sent:
    """The pages of a database as a caller sends them."""

    def __init__(self, mark: CommitMark, data: bytes) -> None:
        size = 3 * PAGE_SIZE
        self._chunks: Iterator[pb.BacktrackChunk] = iter(
            pb.BacktrackChunk(
                past=CommitPoint(lsn=mark.lsn, pages=mark.pages), pages=data[at : at + size]
            )
            for at in range(0, len(data), size)
        )

    async def recv(self) -> pb.BacktrackChunk | None:
        await asyncio.sleep(0)
        return next(self._chunks, None)


TABLES = ("a", "b", "c")
EVERYTHING = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"


def dump_of(data: bytes) -> Dump:
    """What plain SQLite finds in a database file."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(data)
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = database.execute(EVERYTHING).fetchall()
        for _, name, _ in list(found):
            found += database.execute(f"SELECT * FROM {name} ORDER BY id").fetchall()
        return found


async def dump(session: Session) -> Dump:
    await rows(session, "BEGIN")
    found = await rows(session, EVERYTHING)
    for _, name, _ in list(found):
        found += await rows(session, f"SELECT * FROM {name} ORDER BY id")
    await rows(session, "COMMIT")
    return cast(Dump, found)


class World:
    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.volume = LocalVolume()
        self.writer = self.volume.writer(capacity=12)
        self.replica, self.feed = self.volume.replica(capacity=12)
        self.busy = self.writer.session()
        self.sleepers = [(engine, engine.session()) for engine in (self.writer, self.replica)]
        self.dismissed = 0
        self.history: list[tuple[CommitMark, Dump]] = []

    def below(self, n: int) -> int:
        return int(self.data.draw(st.integers(0, n - 1)))

    async def play(self, steps: int) -> None:
        await rows(self.busy, "CREATE TABLE a (id INTEGER PRIMARY KEY, text TEXT)")
        await self.note()
        for _ in range(steps):
            await (self.write, self.write, self.go_to, self.look, self.look, self.fork)[
                self.below(6)
            ]()
            await self.note()
        await self.look()
        await self.writer.close()
        await self.replica.close()

    async def note(self) -> None:
        """The newest commit, if it is a new one, and what is in it."""
        await settle(4)
        mark = self.volume.commits[-1]
        assert self.volume.vdl == mark
        if not self.history or self.history[-1][0] != mark:
            self.history.append((mark, dump_of(self.volume.database(mark))))

    async def write(self) -> None:
        there = {row[1] for row in await rows(self.busy, EVERYTHING)}
        table = TABLES[self.below(3)]
        if table not in there:
            more = ("", ", more TEXT")[self.below(2)]
            sql = f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, text TEXT{more})"
        else:
            size = (3, 3000, 9000)[self.below(3)]
            sql = (
                f"INSERT INTO {table} (text) VALUES (hex(randomblob({size})))",
                f"UPDATE {table} SET text = hex(randomblob({size})) WHERE id = 1",
                f"DELETE FROM {table}",
                f"DROP TABLE {table}",
                "VACUUM",
            )[self.below(5)]
        await rows(self.busy, sql)

    async def fork(self) -> None:
        """The same statement before and after going back counts up from the same numbers, and writes other
        pages; whoever has looked in between must notice."""
        there = {row[1] for row in await rows(self.busy, EVERYTHING)}
        if self.below(2) or "a" not in there:
            sql = [
                f"CREATE TABLE t{len(self.history)} (id INTEGER PRIMARY KEY, {column} TEXT)"
                for column in ("one", "two")
            ]
        else:
            await rows(self.busy, "INSERT OR REPLACE INTO a (id, text) VALUES (1, 'first')")
            await self.note()
            sql = [f"UPDATE a SET text = '{text}' WHERE id = 1" for text in ("one", "two")]
        back = len(self.history) - 1
        await rows(self.busy, sql[0])
        await self.note()
        self.feed.catch_up()
        await self.look()
        await self.go_to(back)
        await self.note()
        await rows(self.busy, sql[1])
        await self.note()
        self.feed.catch_up()
        await self.look()

    async def go_to(self, number: int | None = None) -> None:
        """Back to an earlier commit, or forward again to one that was undone."""
        mark, then = self.history[self.below(len(self.history)) if number is None else number]
        sent = Sent(mark, self.volume.database(mark))
        before, now = self.history[-1]
        reply = await backtrack_database(
            self.writer, cast(ChunkStream, sent), bytes_max=1 << 30, dismiss=self.dismiss, steps=OFF
        )
        assert reply.before.lsn == before.lsn
        newest = self.volume.commits[-1]
        if not reply.HasField("commit"):
            assert (newest, then) == (before, now)
        else:
            assert reply.commit.lsn == newest.lsn > before.lsn
            assert (newest.pages, dump_of(self.volume.database(newest))) == (mark.pages, then)

    async def dismiss(self, _why: str) -> None:
        self.dismissed += 1

    async def look(self) -> None:
        if self.below(2):
            self.feed.catch_up()
        for engine, session in self.sleepers:
            at = engine.pool.visible
            expected = next((then for mark, then in self.history if mark == at), [])
            assert await dump(session) == expected


@settings(deadline=None, max_examples=40)
@given(data=st.data(), steps=st.integers(1, 25))
def test_everybody_sees_what_was_put_back(data: st.DataObject, steps: int) -> None:
    asyncio.run(World(data).play(steps))
