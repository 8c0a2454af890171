"""A node's background tasks: named, watched, and never failing in silence."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

log = logging.getLogger(__name__)

OnFailure = Callable[[str, BaseException], None]

T = TypeVar("T")


class Background:
    """Tasks that live as long as their node.

    One that raises is logged and given to `on_failure` (by default a crash of nothing else: the
    owner decides). `stop` cancels all and waits until they have ended.
    """

    def __init__(self, on_failure: OnFailure | None = None) -> None:
        self._on_failure = on_failure
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their start
        self._stopping = False

    def spawn(self, coro: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run `coro` as a task called `name`. After `stop` nothing starts any more."""
        if self._stopping:
            coro.close()
            raise RuntimeError(f"{name}: its node is stopping")
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
            if self._on_failure is not None and not self._stopping:
                self._on_failure(task.get_name(), error)

    async def stop(self) -> None:
        """Cancel everything and wait for it, except for the task that calls this, if it is ours."""
        self._stopping = True
        await end_all(*(task for task in self._tasks if task is not asyncio.current_task()))


async def end_all(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` and wait until each has ended, in whatever way.

    `asyncio.gather` does the same but for one thing: since Python 3.12 it gives nobody else a turn if all
    have ended already. A simulated history must not depend on the version.
    """
    for task in tasks:
        task.cancel()
    if tasks and tasks[0].get_loop().is_running():  # else who waits is thrown away with its loop
        await asyncio.wait(tasks)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # asking marks it as seen: here nobody waits for an outcome any more


def backoff(rng: random.Random, first: float, limit: float) -> Iterator[float]:
    """Seconds to wait before each next try: doubling from `first` to `limit`, 50 to 100 % of it.

    Never ends; the caller bounds the number of tries, or means to try for ever.
    """
    delay = first
    while True:
        yield delay * (0.5 + rng.random() / 2)
        delay = min(limit, delay * 2)


async def unless_late(answer: Awaitable[T], within_s: float) -> T | None:
    """What comes of `answer`, None if that takes longer than `within_s` seconds; then it is cancelled."""
    try:
        async with asyncio.timeout(within_s):
            return await answer
    except TimeoutError:
        return None


async def set_within(event: asyncio.Event, within_s: float) -> None:
    """Wait until somebody sets `event`; after `within_s` seconds that is done here.

    What `asyncio.timeout` does costs a cancelled task and an exception each time it comes to that.
    """
    if event.is_set():
        return
    timer = asyncio.get_running_loop().call_later(within_s, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
