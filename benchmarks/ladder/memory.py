"""Sextet's server and SQL engine over a volume that is only in memory: a commit is durable at once.

A commit's redo is made as the writer makes it, and thrown away. The pool is the only place where pages
are, so it has to be larger than the database (4 GiB). Prints its port.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

from benchmarks.ladder.process import HOST
from engine.config import SIZES
from engine.log.diff import diff_page
from engine.log.frame import encode_record
from engine.log.record import PageChange
from engine.net.clock import LoopClock
from engine.net.process import run_node
from engine.pgwire.server import PgServer, ServerConfig
from engine.sql.engine import SqlEngine
from engine.sql.pool import BufferPool
from engine.types import LSN, CommitMark, PageNo

EMPTY = CommitMark(0, 0, 0)


class Nobody:
    """A page source that never has to be asked: the pool begins empty and keeps everything."""

    async def read_pages(self, pages: Sequence[PageNo], read_lsn: LSN) -> list[tuple[LSN, bytes]]:
        raise AssertionError("the database is larger than the pool")


class MemorySink:
    """CommitSink that has nobody to wait for."""

    def __init__(self, pool: BufferPool, clock: LoopClock) -> None:
        self._pool = pool
        self._clock = clock
        self._lsn: LSN = 0

    def commit(
        self, changes: Sequence[PageChange], pages: int, free: int | None = None
    ) -> tuple[CommitMark, Mapping[PageNo, LSN]]:
        mark = CommitMark(self._lsn + len(changes), self._clock.wall_us(), pages)
        lsns: dict[PageNo, LSN] = {}
        for change in changes:
            before, self._lsn = self._lsn, self._lsn + 1
            lsns[change.page] = self._lsn
            full, moves, ranges = diff_page(change.before, change.after)
            encode_record(
                lsn=self._lsn,
                prev_lsn=before,
                prev_pg_lsn=before,
                page=change.page,
                full=full,
                moves=moves,
                ranges=ranges,
                commit=mark if self._lsn == mark.lsn else None,
            )
        return mark, lsns

    async def wait_durable(self, lsn: LSN) -> None:
        self._pool.set_visible(self._pool.tip)

    async def ready(self) -> None: ...

    async def reserve(self, pages: int) -> None: ...

    async def prepare(self) -> None: ...


def engine_in_memory() -> SqlEngine:
    clock = LoopClock()
    pool = BufferPool(Nobody(), capacity_pages=SIZES["xlarge"].pool_pages, start=EMPTY)
    return SqlEngine(pool, MemorySink(pool, clock), clock, random.Random(1))


async def serve(stop: asyncio.Event) -> None:
    engine = engine_in_memory()
    server = PgServer(ServerConfig("main", 1), lambda: engine, in_recovery=lambda: False)
    print(await server.listen(HOST, 0), flush=True)
    await stop.wait()
    await server.stop()
    await engine.close()


if __name__ == "__main__":
    run_node(serve, name="memory")
