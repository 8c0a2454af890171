"""Waiting in tests for what will become true, with a bound instead of a fixed sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

LONG_S = 10.0


async def until(true: Callable[[], bool | Awaitable[bool]], *, seconds: float = LONG_S) -> None:
    """Return as soon as `true()` is; raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while not await _value(true()):  # any condition, not only events
            await asyncio.sleep(0.005)


async def _value(answer: bool | Awaitable[bool]) -> bool:
    return answer if isinstance(answer, bool) else await answer
