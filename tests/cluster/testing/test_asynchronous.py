"""The awaited cluster has all that the other one has; on real processes it is tests/e2e/test_testing.py."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from cluster.faults.kit import FaultKit
from cluster.testing import AsyncFaultKit, AsyncLocalCluster, ClusterDown, LocalCluster


def public(of: type) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def test_every_fault_can_be_awaited_with_the_same_arguments() -> None:
    assert public(AsyncFaultKit) == public(FaultKit)
    for name in public(FaultKit):
        awaited, other = getattr(AsyncFaultKit, name), getattr(FaultKit, name)
        assert inspect.iscoroutinefunction(awaited)
        assert inspect.signature(awaited) == inspect.signature(other)


def test_so_can_the_rest() -> None:
    assert public(AsyncLocalCluster) == public(LocalCluster) | {"of"}
    quick = {"fault", "folder", "of", "reader_url", "writer_url"}
    for name in public(AsyncLocalCluster) - quick:
        assert inspect.iscoroutinefunction(getattr(AsyncLocalCluster, name)), name


async def test_until_takes_what_is_true_now_and_what_is_awaited() -> None:
    cluster = AsyncLocalCluster()
    turns = 0

    async def third() -> bool:
        nonlocal turns
        await asyncio.sleep(0)
        turns += 1
        return turns == 3

    await cluster.until(third, "the third time")
    assert turns == 3
    await cluster.until(lambda: turns == 3, "it stays")
    with pytest.raises(ClusterDown, match="not within 0 s: a miracle because 3"):
        await cluster.until(lambda: False, "a miracle", 0.0, lambda: "because 3")


async def test_what_is_waited_for_can_be_given_up() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await AsyncLocalCluster().until(lambda: False, "a miracle")


def test_one_that_does_not_run_says_so() -> None:
    with pytest.raises(ClusterDown, match="not running"):
        _ = AsyncLocalCluster().fault
