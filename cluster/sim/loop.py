"""An asyncio event loop on virtual time: the same callbacks in the same order, every time.

It runs what is ready in the order in which it became ready, and when nothing is, time jumps to the
next timer. Nothing waits for anything real: there are no sockets, threads, signals or subprocesses.

Every callback belongs to the process that scheduled it, by a context variable (`LIFE`) that tasks
inherit: that is how several nodes share one loop and can still be killed and paused one by one. A
callback of a dead process is dropped, as `kill -9` would; one of a paused process waits until it goes
on. So no `finally`, no goodbye and no timeout of a dead node ever runs.

Invariants
- Virtual time never goes back, and moves only when nothing is ready.
- The order depends on the order of calls alone: timers of one moment fire in the order they were made.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

EVENTS_WITHOUT_TIME_MAX = 2_000_000
"""So many callbacks without time moving are an endless loop in somebody's code."""


class Owner(Protocol):
    """Whom a callback belongs to; see `cluster.sim.process.Life`."""

    runs: bool

    def hold(self, handle: asyncio.Handle) -> None:
        """Take over a callback that may not run now."""

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task was made in this owner's context."""


LIFE: ContextVar[Owner | None] = ContextVar("LIFE", default=None)


class Stalled(Exception):
    """Nothing is ready, no timer is set, and what is waited for has not come: a deadlock."""


class SimLoop(asyncio.AbstractEventLoop):
    """`run_until_complete` as of any loop; `time` is virtual seconds from 0."""

    def __init__(self) -> None:
        self.events = 0
        self.on_error: Callable[[dict[str, Any]], None] | None = None
        self._now = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._made = 0
        self._running = False
        self._closed = False
        self._stopping = False
        self._since_time_moved = 0

    # -- time and callbacks

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, handle))
        handle._scheduled = True  # type: ignore[attr-defined]
        return handle

    def requeue(self, handles: list[asyncio.Handle]) -> None:
        """Callbacks that were held back are ready again, in their order."""
        self._ready.extend(handles)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is skipped when its time comes."""

    # -- running

    def run_until_complete(self, future: Any) -> Any:
        made = asyncio.ensure_future(future, loop=self)
        made.add_done_callback(self._stop_for)
        try:
            self.run_forever()
        finally:
            made.remove_done_callback(self._stop_for)
        if not made.done():
            raise Stalled("the loop was stopped before its future was done")
        return made.result()

    def _stop_for(self, _future: asyncio.Future[Any]) -> None:
        self.stop()

    def run_forever(self) -> None:
        if self._running:
            raise RuntimeError("this loop runs already")
        self._running = True
        self._stopping = False
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            while not self._stopping:
                self._run_one()
        finally:
            events._set_running_loop(before)
            self._running = False

    def _run_one(self) -> None:
        if not self._ready:
            self._jump()
        handle = self._ready.popleft()
        if handle._cancelled:
            return
        owner = handle._context.get(LIFE)  # type: ignore[attr-defined]
        if owner is not None and not owner.runs:
            owner.hold(handle)
            return
        self.events += 1
        self._since_time_moved += 1
        if self._since_time_moved > EVENTS_WITHOUT_TIME_MAX:
            raise Stalled(f"{EVENTS_WITHOUT_TIME_MAX} callbacks at {self._now:.6f}: {handle!r}")
        handle._run()

    def _jump(self) -> None:
        """Time moves to the next timer; all that are due then become ready."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Stalled(f"nothing will ever happen again after {self._now:.6f}")
        if timers[0][0] > self._now:
            self._now = timers[0][0]
            self._since_time_moved = 0
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])

    def stop(self) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    async def shutdown_asyncgens(self) -> None:
        """None are hooked: they end with their tasks."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    # -- futures and tasks

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        **_more: Any,
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        owner = context.get(LIFE) if context is not None else LIFE.get()
        if owner is not None:
            owner.adopt(task)
        return task

    # -- errors

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """There is no debug mode."""

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.on_error is not None:
            self.on_error(context)
        else:
            raise RuntimeError(context.get("message")) from context.get("exception")
