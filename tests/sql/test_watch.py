from __future__ import annotations

import asyncio

import pytest

from engine.errors import QueryCanceled
from engine.sql.errors import SessionBusy
from engine.sql.settings import SessionSettings
from engine.sql.watch import Watch
from tests.sql.client import parked, settle


def watch(statement_timeout_s: float = 0.0) -> Watch:
    return Watch(SessionSettings(statement_timeout_s, 0.0))


async def test_an_interruption_becomes_the_error_it_was_made_with() -> None:
    subject = watch()

    async def call() -> None:
        with subject:
            await asyncio.Event().wait()

    task = await parked(call())
    subject.interrupt(QueryCanceled("enough"))
    with pytest.raises(QueryCanceled, match="enough"):
        await task
    assert task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    subject = watch()

    async def call() -> None:
        with subject:
            await asyncio.Event().wait()

    task = await parked(call())
    subject.interrupt(QueryCanceled("enough"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_interrupting_nothing_does_nothing() -> None:
    subject = watch()
    subject.interrupt(QueryCanceled("enough"))
    with subject:
        await asyncio.sleep(0)


async def test_serves_one_task_at_a_time() -> None:
    subject = watch()
    gate = asyncio.Event()

    async def call() -> None:
        with subject:
            await gate.wait()

    task = await parked(call())
    with pytest.raises(SessionBusy):
        await call()
    gate.set()
    await task


async def test_times_out_and_the_timer_serves_the_next_call_too() -> None:
    subject = watch(0.005)
    for _ in range(3):
        with subject:
            await asyncio.sleep(0)
        with pytest.raises(QueryCanceled, match="statement timeout"), subject:
            await asyncio.Event().wait()
    subject.close()


async def test_a_shorter_timeout_set_later_counts() -> None:
    settings = SessionSettings(1000.0, 0.0)
    subject = Watch(settings)
    with subject:
        await asyncio.sleep(0)
    settings.statement_timeout_s = 0.005
    with pytest.raises(QueryCanceled), subject:
        await asyncio.Event().wait()
    subject.close()


async def test_waits_until_idle() -> None:
    subject = watch()
    gate = asyncio.Event()

    async def call() -> None:
        with subject:
            await gate.wait()

    task = await parked(call())
    idle = await parked(subject.wait_idle())
    gate.set()
    await settle()
    assert idle.done()
    await task
    await subject.wait_idle()


async def test_what_is_inside_another_call_of_the_same_task_is_part_of_it() -> None:
    subject = watch(0.02)
    told: list[str] = []

    async def call(inner: bool) -> None:
        with subject:
            try:
                with subject:
                    await (asyncio.Event().wait() if inner else asyncio.sleep(0))
                await asyncio.Event().wait()
            except QueryCanceled:
                told.append("inside")
                raise
            finally:
                with subject:
                    pass  # as closing a cursor does; must not swallow what is on its way

    for inner in (False, True):
        with pytest.raises(QueryCanceled, match="statement timeout"):
            await asyncio.create_task(call(inner))
        assert not subject.running
    assert told == ["inside"]
