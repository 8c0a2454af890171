"""Background tasks never fail in silence; delays double, are jittered and bounded."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.tasks import Background, backoff, set_within, unless_late


async def test_failure_is_logged_and_reported_by_name(caplog: pytest.LogCaptureFixture) -> None:
    failed: asyncio.Future[tuple[str, BaseException]] = asyncio.get_running_loop().create_future()
    background = Background(lambda name, error: failed.set_result((name, error)))

    async def fail() -> None:
        raise ValueError("no")

    background.spawn(fail(), name="gossip")
    name, error = await failed
    assert (name, str(error)) == ("gossip", "no")
    assert "gossip failed" in caplog.text
    assert "ValueError: no" in caplog.text
    await background.stop()


async def test_failure_without_an_owner_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()

    async def fail() -> None:
        raise ValueError("no")

    task = background.spawn(fail(), name="gossip")
    await asyncio.wait([task])
    await background.stop()
    assert "gossip failed" in caplog.text


async def test_stop_cancels_all_and_waits_for_their_cleaning_up() -> None:
    events: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append(name)

    background = Background(lambda name, error: events.append(f"{name} failed: {error}"))
    for name in ("b", "a"):
        background.spawn(work(name), name=name)
    await asyncio.sleep(0)
    await background.stop()
    assert sorted(events) == ["a", "b"]
    await background.stop()


async def test_task_that_fails_while_it_is_stopped_is_logged_and_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reported: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("on the way out")

    background = Background(lambda name, _: reported.append(name))
    background.spawn(work(), name="gossip")
    await asyncio.sleep(0)
    await background.stop()
    assert reported == []
    assert "on the way out" in caplog.text


async def test_nothing_starts_after_stop() -> None:
    background = Background()
    await background.stop()

    async def work() -> None:
        raise AssertionError("never runs")

    with pytest.raises(RuntimeError, match="late: its node is stopping"):
        background.spawn(work(), name="late")


async def test_a_task_may_stop_its_own_background() -> None:
    background = Background()
    other_ended = asyncio.Event()

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            other_ended.set()

    async def stopper() -> str:
        await background.stop()
        return "not cancelled"

    background.spawn(other(), name="other")
    assert await background.spawn(stopper(), name="stopper") == "not cancelled"
    assert other_ended.is_set()


async def test_finished_tasks_are_forgotten() -> None:
    background = Background()

    async def work() -> int:
        return 7

    assert await background.spawn(work(), name="short") == 7
    await asyncio.sleep(0)
    assert not background._tasks


@given(
    seed=st.integers(),
    first=st.floats(0.001, 1),
    factor=st.floats(1, 100),
)
def test_delays_double_to_their_limit_with_at_most_half_of_it_jitter(
    seed: int, first: float, factor: float
) -> None:
    limit = first * factor
    delays = list(itertools.islice(backoff(random.Random(seed), first, limit), 20))
    for n, delay in enumerate(delays):
        full = min(limit, first * 2**n)
        assert full * 0.499 <= delay <= full * 1.001


async def test_what_comes_in_time_and_what_is_given_up() -> None:
    never: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def soon() -> int:
        return 7

    assert await unless_late(soon(), 10.0) == 7
    assert await unless_late(never, 0.0) is None
    assert never.cancelled(), "nobody goes on with it"


async def test_set_within_waits_for_whoever_sets_it_and_no_longer_than_that() -> None:
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    await set_within(event, 0.01)
    assert event.is_set()
    event.clear()
    loop.call_soon(event.set)
    await set_within(event, 3600.0)
    await set_within(event, 3600.0)  # it is set already
    event.clear()
    waiting = asyncio.create_task(set_within(event, 0.02))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    later = loop.create_future()
    loop.call_later(0.05, later.set_result, None)
    await later
    assert not event.is_set(), "who was cancelled sets nothing"
