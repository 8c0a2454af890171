"""Many who ask for the commit point share one question, but none that was asked before they came."""

from __future__ import annotations

import asyncio
import random
from typing import cast

import pytest

from engine.errors import SqlError, Unavailable
from engine.instance import commitpoint
from engine.instance.commitpoint import CommitPoint
from engine.net.clock import LoopClock
from engine.ports import Disk, Runtime, Transport


class Writer:
    """Answers with `committed` as it is when it is asked, once it is let."""

    def __init__(self) -> None:
        self.committed = 1
        self.asked = asyncio.Semaphore(0)
        self.let = asyncio.Semaphore(0)
        self.fails = False

    async def ask(self) -> int:
        answer = self.committed
        self.asked.release()
        await self.let.acquire()
        if self.fails:
            raise Unavailable("gone")
        return answer


def _runtime() -> Runtime:
    return Runtime(
        clock=LoopClock(),
        disk=cast(Disk, None),
        transport=cast(Transport, None),
        rng=random.Random(1),
        stop_node=lambda reason: pytest.fail(reason),
    )


async def test_who_comes_while_a_question_is_under_way_waits_for_the_next_one() -> None:
    writer = Writer()
    point = CommitPoint(_runtime(), writer.ask)
    first = asyncio.ensure_future(point())
    await writer.asked.acquire()
    writer.committed = 2  # acknowledged before the others come
    late = [asyncio.ensure_future(point()) for _ in range(5)]
    await asyncio.sleep(0)
    writer.let.release()
    assert await first == 1
    async with asyncio.timeout(10):
        await writer.asked.acquire()
    writer.let.release()
    assert await asyncio.gather(*late) == [2] * 5
    assert point.questions == 2


async def test_question_goes_on_when_who_began_it_is_cancelled() -> None:
    writer = Writer()
    point = CommitPoint(_runtime(), writer.ask)
    first, second = asyncio.ensure_future(point()), asyncio.ensure_future(point())
    await writer.asked.acquire()
    first.cancel()
    await asyncio.wait({first})
    writer.let.release()
    assert await second == 1


async def test_failure_is_told_to_all_and_is_not_remembered(monkeypatch) -> None:
    monkeypatch.setattr(commitpoint, "GIVE_UP_S", 0.0)
    writer = Writer()
    writer.fails = True
    writer.let.release()
    point = CommitPoint(_runtime(), writer.ask)
    answers = await asyncio.gather(point(), point(), return_exceptions=True)
    assert [type(answer) for answer in answers] == [SqlError, SqlError]
    writer.fails = False
    writer.let.release()
    assert await point() == 1


async def test_question_is_asked_again_for_a_while() -> None:
    writer = Writer()
    writer.fails = True
    point = CommitPoint(_runtime(), writer.ask)
    asking = asyncio.ensure_future(point())
    writer.let.release()
    await writer.asked.acquire()
    await asyncio.sleep(0)
    writer.fails = False
    writer.let.release()
    assert await asking == 1
    assert point.questions == 2
    await point.close()
