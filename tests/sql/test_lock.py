from __future__ import annotations

import asyncio

import pytest

from engine.errors import LockTimeout
from engine.sql.lock import WriteLock
from tests.sql.client import parked, settle


async def test_serves_in_order_of_arrival() -> None:
    lock, order = WriteLock(), list[int]()

    async def work(number: int) -> None:
        await lock.acquire()
        order.append(number)
        await asyncio.sleep(0)
        lock.release()

    await asyncio.gather(*(work(n) for n in range(10)))
    assert order == list(range(10))
    assert not lock.held


async def test_nobody_barges_in_between_release_and_the_next_one() -> None:
    lock = WriteLock()
    await lock.acquire()
    waiting = await parked(lock.acquire())
    lock.release()
    late = await parked(lock.acquire())
    assert waiting.done()
    lock.release()
    await late


async def test_times_out() -> None:
    lock = WriteLock()
    await lock.acquire()
    with pytest.raises(LockTimeout):
        await lock.acquire(0.001)
    lock.release()
    assert not lock.held


async def test_a_cancelled_waiter_is_passed_over() -> None:
    lock = WriteLock()
    await lock.acquire()
    first, second = await parked(lock.acquire()), await parked(lock.acquire())
    first.cancel()
    lock.release()
    await second
    assert first.cancelled()
    assert lock.held


async def test_handed_over_and_cancelled_in_one_turn_it_goes_on_to_the_next() -> None:
    lock = WriteLock()
    await lock.acquire()
    first, second = await parked(lock.acquire()), await parked(lock.acquire())
    lock.release()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()
    lock.release()
    assert not lock.held
