from __future__ import annotations

import asyncio
import contextvars
import gc

import pytest

from engine.sql.bridge import await_sync, in_greenlet, run_sync


async def test_returns_what_the_function_returns() -> None:
    assert await run_sync(lambda a, b: a + b, 1, b=2) == 3


async def test_awaits_from_below_and_lets_others_run() -> None:
    order: list[str] = []
    gate = asyncio.Event()

    def below() -> str:
        order.append("before")
        await_sync(gate.wait())
        order.append("after")
        return "done"

    async def other() -> None:
        order.append("other")
        gate.set()

    assert await asyncio.gather(run_sync(below), other()) == ["done", None]
    assert order == ["before", "other", "after"]


async def test_raises_what_the_function_raises_and_works_again() -> None:
    def fail() -> None:
        raise ValueError("no")

    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            await run_sync(fail)
    assert await run_sync(in_greenlet)


async def test_raises_below_what_the_awaitable_raises() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("gone")

    def below() -> str:
        try:
            await_sync(fail())
        except KeyError as error:
            return f"caught {error}"
        return "nothing"

    assert await run_sync(below) == "caught 'gone'"


async def test_cancellation_is_raised_below() -> None:
    seen: list[str] = []

    def below() -> None:
        try:
            await_sync(asyncio.Event().wait())
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(run_sync(below))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


async def test_a_function_may_await_again_while_it_unwinds() -> None:
    def below() -> str:
        try:
            await_sync(asyncio.Event().wait())
        except asyncio.CancelledError:
            return await_sync(asyncio.sleep(0, "tidied up"))
        return "no"

    task = asyncio.create_task(run_sync(below))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "tidied up"


async def test_many_at_once_each_get_their_own_answer() -> None:
    def below(number: int) -> list[int]:
        return [await_sync(asyncio.sleep(0, number)) for _ in range(5)]

    results = await asyncio.gather(*(run_sync(below, n) for n in range(100)))
    assert results == [[n] * 5 for n in range(100)]


async def test_outside_it_says_what_is_wrong_and_leaves_no_warning() -> None:
    assert not in_greenlet()
    with pytest.raises(RuntimeError, match="below run_sync"):
        await_sync(asyncio.sleep(0))


async def test_context_variables_are_those_of_the_caller() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    async def ask(value: str) -> str:
        name.set(value)
        await asyncio.sleep(0)
        return await run_sync(name.get)

    assert await asyncio.gather(ask("a"), ask("b")) == ["a", "b"]


async def test_an_idle_worker_keeps_nothing_alive() -> None:
    class Big:
        alive = 0

        def __init__(self) -> None:
            Big.alive += 1

        def __del__(self) -> None:
            Big.alive -= 1

    await run_sync(lambda big: None, Big())
    await run_sync(lambda: Big())
    gc.collect()
    assert Big.alive == 0


async def test_a_task_thrown_away_while_parked_unwinds_the_greenlet() -> None:
    seen: list[str] = []

    def below() -> None:
        try:
            await_sync(asyncio.Event().wait())
        finally:
            seen.append("unwound")

    coroutine = run_sync(below)
    coroutine.send(None)
    coroutine.close()
    assert seen == ["unwound"]


def test_works_in_several_loops_one_after_the_other() -> None:
    async def main() -> int:
        return await run_sync(lambda: await_sync(asyncio.sleep(0, 7)))

    assert [asyncio.run(main()) for _ in range(3)] == [7, 7, 7]
