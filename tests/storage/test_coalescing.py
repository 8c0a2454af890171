"""When redo becomes pages: soon once no more comes, late while it does, at once if it is much."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from engine.storage import reading
from tests.storage.harness import QUIET, VOLUME, Log, Node

Make = Callable[..., Awaitable[Node]]

ROUNDS, BUSY_ROUNDS = 3, 8
WAITING = replace(QUIET, coalesce_rounds=ROUNDS, coalesce_busy_rounds=BUSY_ROUNDS)


async def opened(make: Make, **limits: int) -> Node:
    node = await make(config=replace(WAITING, **limits))
    await node.assign()
    await node.fence(1)
    return node


async def commit(node: Node, log: Log, page: int = 0) -> None:
    await node.append(log.commit([page])[0])
    node.state.volume(VOLUME).learn_points(vdl=log.last)


async def looks_until_applied(node: Node, log: Log, *, busy: bool) -> int:
    """How many, with a commit before each if `busy`."""
    applied = node.segment().applied
    for looks in range(1, 2 * BUSY_ROUNDS):
        if busy:
            await commit(node, log)
        await node.node.coalescer.look()
        if node.segment().applied > applied:
            return looks
    raise AssertionError("never")


async def test_redo_that_has_stopped_coming_waits_for_a_few_looks(make: Make) -> None:
    node, log = await opened(make), Log()
    for _ in range(3):
        await commit(node, log)
        assert await looks_until_applied(node, log, busy=False) == ROUNDS
        assert node.segment().applied == log.last


async def test_redo_that_keeps_coming_waits_longer_and_becomes_one_version(make: Make) -> None:
    node, log = await opened(make), Log()
    for _ in range(2):
        before = node.state.counters["pages_coalesced"]
        assert await looks_until_applied(node, log, busy=True) == BUSY_ROUNDS
        assert node.segment().applied == log.last
        assert node.state.counters["pages_coalesced"] == before + 1


async def test_a_pause_ends_the_waiting(make: Make) -> None:
    node, log = await opened(make), Log()
    for _ in range(ROUNDS + 1):
        await commit(node, log)
        await node.node.coalescer.look()
    assert node.segment().applied == 0
    await node.node.coalescer.look()
    assert node.segment().applied == log.last


async def test_much_redo_waits_for_nothing(make: Make) -> None:
    node, log = await opened(make, coalesce_bytes=120), Log()
    await commit(node, log)
    await node.node.coalescer.look()
    assert node.segment().applied == 0
    await commit(node, log)
    await node.node.coalescer.look()
    assert node.segment().applied == log.last


async def test_a_page_with_many_records_waits_for_nothing(make: Make) -> None:
    """Others may wait: it is this one whose records a read would have to apply."""
    node, log = await opened(make, coalesce_page_records=3), Log()
    for _ in range(2):
        for page in (1, 2, 1, 2):
            await commit(node, log, page)
            await node.node.coalescer.look()
        applied = node.segment().applied
        assert applied < log.last - 3
        await commit(node, log, 2)
        await node.node.coalescer.look()
        assert node.segment().applied == log.last


async def test_a_node_with_much_redo_in_all_counts_nothing_as_busy(make: Make) -> None:
    node, log = await opened(make, frame_cache_bytes=350), Log()
    assert await looks_until_applied(node, log, busy=True) == ROUNDS


async def test_a_long_way_to_a_page_leaves_others_a_turn(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RECORDS_PER_TURN", 4)
    node, log = await opened(make), Log()
    for n in range(20):
        await commit(node, log, n % 4)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def read() -> int:
        nonlocal turns
        turns = 0
        found = await node.read(range(4), log.last, pg_lsn=log.last)
        assert found == [log.page_at(page, log.last) for page in range(4)]
        return turns

    counting = asyncio.ensure_future(count())
    in_turns = await read()
    monkeypatch.setattr(reading, "RECORDS_PER_TURN", 1000)
    at_once = await read()
    counting.cancel()
    assert in_turns > at_once
