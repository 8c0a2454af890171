"""The write lock: one write transaction at a time, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque

from engine.errors import LockTimeout


class WriteLock:
    """First come, first served: `release` hands over to the longest waiter, so nobody barges in."""

    def __init__(self) -> None:
        self.held = False
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def acquire(self, timeout_s: float = 0.0) -> None:
        """Raises LockTimeout after `timeout_s` seconds, if that is not 0. Can be cancelled."""
        if not self.held:
            self.held = True
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiters.append(future)
        timer = loop.call_later(timeout_s, _expire, future) if timeout_s > 0 else None
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release()  # handed over and cancelled in the same turn of the loop
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self) -> None:
        assert self.held, "released by somebody who does not hold it"
        while self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)
                return
        self.held = False


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(LockTimeout("canceling statement due to lock timeout"))
