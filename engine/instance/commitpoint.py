"""The newest acknowledged commit, asked for by strong reads: many at once share one question.

An answer serves whoever had come before it was asked for. So while one question is under way all that
come wait for the next one: however many read, one is asked at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from engine.errors import SextetError, SqlError, StaleEpoch
from engine.ports import Runtime
from engine.tasks import backoff, end_all
from engine.types import LSN

log = logging.getLogger(__name__)

GIVE_UP_S = 5.0
"""How long the writer is asked again and again: about a failover. Then reads fail with NOT_NOW."""

NOT_NOW = "57P03"


class CommitPoint:
    """Call it. `ask` gets a VDL that was durable, and the newest writer's, at some time after the call."""

    def __init__(self, runtime: Runtime, ask: Callable[[], Awaitable[LSN]]) -> None:
        self.questions = 0
        self._runtime = runtime
        self._ask = ask
        self._running: asyncio.Task[LSN] | None = None
        self._next: asyncio.Task[LSN] | None = None

    async def __call__(self) -> LSN:
        """An LSN at or above every commit acknowledged before this call. Raises SqlError 57P03."""
        if self._next is None:
            self._next = asyncio.create_task(self._round(self._running), name="commit point")
            self._next.add_done_callback(_seen)
        try:
            return await asyncio.shield(self._next)
        except SextetError as error:
            raise SqlError(
                f"a strong read cannot be answered now, the writer does not say what is committed: {error}",
                sqlstate=NOT_NOW,
                hint="Try again, or SET sextet.read_consistency = 'session' or 'eventual'.",
            ) from error

    async def _round(self, before: asyncio.Task[LSN] | None) -> LSN:
        if before is not None:
            await asyncio.wait({before})
        # Whoever comes from now on has come too late for this question.
        self._running, self._next = self._next, None
        deadline = self._runtime.clock.monotonic() + GIVE_UP_S
        for delay in backoff(self._runtime.rng, 0.05, 0.5):
            self.questions += 1
            try:
                return await self._ask()
            except StaleEpoch:
                raise  # this writer is over, however often it asks
            except SextetError as error:
                if self._runtime.clock.monotonic() + delay > deadline:
                    raise
                log.debug("no commit point yet: %s", error)
            await asyncio.sleep(delay)
        raise AssertionError("backoff never ends")

    async def close(self) -> None:
        await end_all(*(task for task in (self._running, self._next) if task is not None))


def _seen(task: asyncio.Task[LSN]) -> None:
    """Nobody may be left who waits for it, and its error is no news then."""
    if not task.cancelled():
        task.exception()
