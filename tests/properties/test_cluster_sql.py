"""SQL against a whole cluster and plain SQLite side by side, while nodes and the writer come and go.

The cluster is real but for its processes: six storage nodes, a writer and a replica in one event
loop, over gRPC and files. At most two storage nodes are away at a time, so no write may fail.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from engine.sql.session import Session
from tests.instance.test_roles import Cluster, Running, caught_up, run, until
from tests.support.catalog import Catalog
from tests.support.fleet import NODES, Fleet

KEYS = st.integers(1, 30)
TEXTS = st.text(alphabet="abcXYZ é'", max_size=300)


class SideBySide(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="sextet-"))
        self.plain = sqlite3.connect(":memory:", isolation_level=None)
        self.away: list[str] = []
        self.tables = 1
        self.writers = 0
        self.fleet = Fleet(self.root)
        self.catalog = Catalog(self.fleet)
        self.cluster = Cluster(self.fleet, self.catalog, self.root)
        self.writer: Running
        self.replica: Running
        self.session: Session
        self.wait(self.begin())

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def begin(self) -> None:
        await self.fleet.start()
        await self.catalog.start()
        await self.open_writer()
        self.replica = await self.cluster.start("replica")
        await self.both("CREATE TABLE t0 (k INTEGER PRIMARY KEY, v TEXT)")

    async def open_writer(self) -> None:
        self.writers += 1
        name = f"writer-{self.writers}"
        await self.catalog.name_writer(name)
        self.writer = await self.cluster.start(name)
        self.session = self.writer.session()

    async def both(self, sql: str) -> None:
        """The same statement on both; both succeed with the same rows, or both fail."""
        try:
            expected: Any = self.plain.execute(sql).fetchall()
        except sqlite3.Error:
            expected = None
        try:
            found: Any = await run(self.session, sql)
        except Exception:
            if expected is not None:
                raise
            found = None
        assert found == expected, sql

    # -- statements

    @rule(k=KEYS, v=TEXTS)
    def insert(self, k: int, v: str) -> None:
        text = v.replace("'", "''")
        table = f"t{k % self.tables}"
        self.wait(self.both(f"INSERT INTO {table} VALUES ({k}, '{text}')"))

    @rule(k=KEYS, v=TEXTS)
    def update(self, k: int, v: str) -> None:
        text = v.replace("'", "''")
        self.wait(self.both(f"UPDATE t{k % self.tables} SET v = v || '{text}' WHERE k >= {k}"))

    @rule(k=KEYS)
    def delete(self, k: int) -> None:
        self.wait(self.both(f"DELETE FROM t{k % self.tables} WHERE k % 3 = {k % 3}"))

    @rule(keep=st.booleans(), inner=st.booleans(), k=KEYS)
    def transaction(self, keep: bool, inner: bool, k: int) -> None:
        table = f"t{k % self.tables}"
        statements = [
            "BEGIN",
            f"INSERT OR REPLACE INTO {table} VALUES ({k}, 'in transaction')",
            "SAVEPOINT s",
            f"DELETE FROM {table} WHERE k > {k // 2}",
            "RELEASE s" if inner else "ROLLBACK TO s",
            f"SELECT count(*), max(v) FROM {table}",
            "COMMIT" if keep else "ROLLBACK",
        ]
        for sql in statements:
            self.wait(self.both(sql))

    @precondition(lambda self: self.tables < 4)
    @rule()
    def another_table(self) -> None:
        self.wait(self.both(f"CREATE TABLE t{self.tables} (k INTEGER PRIMARY KEY, v TEXT)"))
        self.wait(self.both(f"CREATE INDEX i{self.tables} ON t{self.tables} (v)"))
        self.tables += 1

    @rule(rows=st.integers(1, 400))
    def many_rows(self, rows: int) -> None:
        numbers = (
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
        )
        change = "INSERT OR IGNORE INTO t0 SELECT i + 1000, printf('%0200d', i) FROM n"
        self.wait(self.both(f"{numbers} {change}"))

    # -- faults

    @precondition(lambda self: len(self.away) < 2)
    @rule(at=st.integers(0, 5))
    def lose_a_storage_node(self, at: int) -> None:
        name = NODES[at]
        if name not in self.away:
            self.away.append(name)
            self.wait(self.fleet.stop(name))

    @precondition(lambda self: self.away)
    @rule()
    def a_storage_node_comes_back(self) -> None:
        self.wait(self.fleet.start(self.away.pop(0)))

    @rule()
    def the_writer_dies(self) -> None:
        self.wait(self.end(self.writer))
        self.wait(self.open_writer())

    async def end(self, running: Running) -> None:
        self.cluster.running.remove(running)
        await running.stop()

    # -- comparison

    @rule()
    def compare(self) -> None:
        self.wait(self.compare_all())

    async def compare_all(self) -> None:
        await until(caught_up(self.replica, self.writer))
        expected = self.dump()
        for running in (self.writer, self.replica):
            session = running.session()
            assert await run(session, "PRAGMA integrity_check") == [("ok",)]
            for table, rows in expected.items():
                assert await run(session, f"SELECT k, v FROM {table} ORDER BY k") == rows
            await session.close()

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        every = {}
        for n in range(self.tables):
            every[f"t{n}"] = self.plain.execute(f"SELECT k, v FROM t{n} ORDER BY k").fetchall()
        return every

    def teardown(self) -> None:
        try:
            self.wait(self.compare_all())
        finally:
            self.wait(self.finish())
            self.plain.close()
            self.loop.close()
            shutil.rmtree(self.root)

    async def finish(self) -> None:
        for running in list(self.cluster.running):
            await self.end(running)
        await self.catalog.stop()
        await self.fleet.stop()


TestSideBySide = SideBySide.TestCase
TestSideBySide.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
