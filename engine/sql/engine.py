"""The SQL engine of one instance: sessions over one buffer pool, one write lock, one sink or none."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from engine.log.record import PageChange
from engine.moments import Moment
from engine.ports import Clock
from engine.sql.chance import seed_sqlite
from engine.sql.errors import SessionClosed
from engine.sql.hardening import limit_heap
from engine.sql.lock import WriteLock
from engine.sql.pool import BufferPool
from engine.sql.session import Session
from engine.sql.settings import SqlSettings
from engine.sql.sink import LARGE_COMMIT_PAGES, CommitSink
from engine.sql.vfs import VolumeVfs
from engine.types import LSN, CommitMark, PageNo

__all__ = ["CommitSink", "SqlEngine", "SqlSettings"]


class SqlEngine:
    """`sink` is the writer's volume; without one (on a replica) every write is refused (25006)."""

    def __init__(
        self,
        pool: BufferPool,
        sink: CommitSink | None,
        clock: Clock,
        rng: random.Random,
        *,
        settings: SqlSettings | None = None,
    ) -> None:
        self.pool = pool
        self.sink = sink
        self.settings = settings or SqlSettings()
        self.commit_point: Callable[[], Awaitable[LSN]] | None = None
        """The newest commit that anybody was told of, for strong reads; None: what is visible here."""
        self.commit_at: Callable[[Moment], Awaitable[CommitMark]] | None = None
        """The last commit at a moment of the past that is still served. Raises SextetError."""
        self.statements = 0
        """Executed since the start, whatever came of them."""
        self.lock = WriteLock()
        self.vfs = VolumeVfs(clock)
        self.wall_us = clock.wall_us
        self._sessions: dict[Session, None] = {}  # in the order they were made
        self._closed = False
        limit_heap(self.settings)
        seed_sqlite(rng)

    def session(self, user: str = "postgres", database: str = "main") -> Session:
        """A new session. It costs nothing before its first statement."""
        if self._closed:
            raise SessionClosed("the database is shutting down")
        session = Session(self, user=user, database=database)
        self._sessions[session] = None
        return session

    @property
    def sessions(self) -> int:
        """How many are open."""
        return len(self._sessions)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """The write lock for somebody who commits without SQLite (import, backtrack)."""
        await self.lock.acquire()
        try:
            if self.sink is not None:
                await self.sink.ready()
            yield
        finally:
            self.lock.release()

    async def commit_pages(self, images: Mapping[PageNo, bytes], pages: int) -> CommitMark:
        """Pages that SQLite has not written, as one MTR that leaves a database of `pages` pages; returns
        once it is durable. Inside `exclusive` only.

        Raises VolumeFull; StaleEpoch if the outcome is unknown.
        """
        assert self.sink is not None
        tip = self.pool.tip
        if pages > tip.pages:
            await self.sink.reserve(pages)
        changes = []
        for page in sorted(images):
            # As with SQLite's own commits: a full image where the page is new or no longer cached.
            before = self.pool.get_nowait(page, tip.lsn) if page < tip.pages else None
            changes.append(PageChange(page, before, images[page]))
        if len(changes) >= LARGE_COMMIT_PAGES:
            await self.sink.prepare()
        mark, lsns = self.sink.commit(changes, pages)
        self.pool.install(mark, {c.page: (lsns[c.page], c.after) for c in changes})
        await self.sink.wait_durable(mark.lsn)
        return mark

    def forget(self, session: Session) -> None:
        """A session has closed."""
        self._sessions.pop(session, None)

    async def close(self) -> None:
        """Interrupt and close every session, then unregister from SQLite. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for session in list(self._sessions):
            await session.close()
        self.vfs.unregister()
