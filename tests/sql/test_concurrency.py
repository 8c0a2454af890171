"""Many connections suspended in the middle of SQLite at the same time."""

from __future__ import annotations

import asyncio
import random

from engine.sql.engine import SqlEngine
from engine.sql.session import Session
from tests.sql.client import parked, rows, run, settle
from tests.sql.local_volume import LocalVolume

SESSIONS = 50


async def fill(volume: LocalVolume, count: int = 2000) -> None:
    engine = volume.writer()
    session = engine.session()
    await run(session, "create table t(a integer primary key, b text)")
    await run(session, "create index i on t(b)")
    await run(
        session,
        "with recursive c(x) as (select 1 union all select x + 1 from c where x < $1)"
        " insert into t select x, printf('%08d', x * 7919 % 100003) || hex(zeroblob(50)) from c",
        count,
    )
    await settle()
    await engine.close()


class Turnstile:
    """Lets one waiting read of the volume pass at a time, in an order that a seed decides."""

    def __init__(self, volume: LocalVolume, seed: int) -> None:
        self.waiting: list[asyncio.Event] = []
        self.most = 0
        self._random = random.Random(seed)
        inner = volume.read_pages

        async def read_pages(pages: object, lsn: int) -> object:
            event = asyncio.Event()
            self.waiting.append(event)
            self.most = max(self.most, len(self.waiting))
            await event.wait()
            return await inner(pages, lsn)  # type: ignore[arg-type]

        volume.read_pages = read_pages  # type: ignore[method-assign, assignment]

    async def drive(self, work: asyncio.Future[object]) -> None:
        while not work.done():
            if self.waiting:
                self.waiting.pop(self._random.randrange(len(self.waiting))).set()
            await asyncio.sleep(0)


async def test_fifty_sessions_suspended_in_the_middle_of_a_read(volume: LocalVolume) -> None:
    await fill(volume)
    engine = volume.writer(capacity=16)
    turnstile = Turnstile(volume, seed=1)

    async def work(number: int) -> None:
        session = engine.session()
        for start in range(number, 2000, 211):
            (row,) = await rows(session, "select a, b from t where a = $1", start or 1)
            found = await rows(session, "select a from t where b = $1", row[1])
            assert found == [(start or 1,)]
        if number % 10 == 0:
            assert await rows(session, "select count(*), sum(a) from t") == [(2000, 2001000)]
        await session.close()

    everything = asyncio.gather(*(work(n) for n in range(SESSIONS)))
    await turnstile.drive(everything)
    await everything
    assert turnstile.most > SESSIONS // 2, "they were suspended together, not one by one"
    assert engine.pool.min_pinned() == engine.pool.visible.lsn
    await engine.close()


async def test_readers_and_writers_interleave_at_every_page(volume: LocalVolume) -> None:
    await fill(volume, 500)
    engine = volume.writer(capacity=16)
    turnstile = Turnstile(volume, seed=2)

    async def read(_number: int) -> None:
        session = engine.session()
        for _ in range(3):
            await run(session, "begin")
            (first,) = await rows(session, "select count(*), sum(a) from t")
            (again,) = await rows(session, "select count(*), sum(a) from t not indexed")
            assert first == again
            await run(session, "commit")
        await session.close()

    async def write(number: int) -> None:
        session = engine.session()
        for step in range(3):
            await run(session, "begin")
            await run(session, "insert into t values ($1, 'new')", 10_000 + 10 * number + step)
            await run(session, "update t set b = b || '!' where a = $1", number + 1)
            await run(session, "rollback" if step == 1 else "commit")
        await session.close()

    everything = asyncio.gather(*(read(n) for n in range(15)), *(write(n) for n in range(10)))
    await turnstile.drive(everything)
    await everything
    check = asyncio.ensure_future(rows(engine.session(), "select count(*) from t where b = 'new'"))
    await turnstile.drive(check)
    assert await check == [(20,)]
    check = asyncio.ensure_future(rows(engine.session(), "pragma integrity_check"))
    await turnstile.drive(check)
    assert await check == [("ok",)]
    await engine.close()


async def test_suspended_readers_are_cancelled_without_harm(volume: LocalVolume) -> None:
    await fill(volume, 200)
    engine = volume.writer(capacity=16)
    volume.gate.clear()

    async def read(session: Session) -> object:
        return await rows(session, "select count(*) from t")

    sessions = [engine.session() for _ in range(SESSIONS)]
    tasks = [asyncio.ensure_future(read(s)) for s in sessions]
    await settle()
    for task in tasks[::2]:
        task.cancel()
    await settle()
    assert all(task.cancelled() for task in tasks[::2])
    volume.gate.set()
    assert await asyncio.gather(*tasks[1::2]) == [[(200,)]] * (SESSIONS // 2)
    for session in sessions[::2]:
        assert await read(session) == [(200,)]
    await engine.close()
    assert engine.pool.min_pinned() == engine.pool.visible.lsn


async def test_closing_the_engine_ends_everything(volume: LocalVolume) -> None:
    await fill(volume, 200)
    engine: SqlEngine = volume.writer(capacity=16)
    volume.gate.clear()
    sessions = [engine.session() for _ in range(10)]
    tasks = [await parked(rows(s, "select count(*) from t")) for s in sessions]
    await engine.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {getattr(r, "sqlstate", r) for r in results} == {"57P01"}
    assert engine.sessions == 0
