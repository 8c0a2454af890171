"""Synchronous code on the event loop: SQLite calls back into Python, and Python must await.

`await run_sync(fn)` runs `fn` in a greenlet. Inside it, however deep in C, `await_sync(awaitable)`
switches to the event loop, which awaits and switches back with the result. There is no thread:
while the greenlet is parked, other tasks run, and SQLite sits in the middle of a callback.

Invariants
- A greenlet runs only while the task that called `run_sync` runs; the two never overlap.
- Whatever `await` raises, a cancellation of the task included, is raised by `await_sync` inside
  `fn`. So a cancelled statement unwinds through SQLite, which rolls back what it must.
- A worker greenlet is reused after its function has ended: a new one costs eight microseconds (its
  stack), a switch to a parked one half of that of one. Idle workers are kept per thread, a few.

The idea is SQLAlchemy's `greenlet_spawn`; this is written afresh.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped]

P = ParamSpec("P")
T = TypeVar("T")

IDLE_WORKERS_MAX = 16

_AWAIT, _RETURN, _RAISE = range(3)


class _Worker(greenlet):  # type: ignore[misc]
    """Runs one function after the other; parked in between, and at every `await_sync`.

    What goes over is an attribute, taken out by the other side: an argument of `switch` would stay
    alive on the parked stack.
    """

    def __init__(self) -> None:
        super().__init__(self._work, getcurrent())
        self.job: Callable[[], Any] | None = None
        self.value: Any = None

    def _work(self) -> None:
        while True:
            job, self.job = self.job, None
            assert job is not None
            try:
                self.value = job()
                kind = _RETURN
            except GreenletExit:
                return  # this worker is being thrown away while its function is parked
            except BaseException as error:
                self.value = error
                kind = _RAISE
            del job
            assert self.parent is not None
            self.parent.switch(kind)

    def take(self) -> Any:
        value, self.value = self.value, None
        return value


class _Idle(threading.local):
    def __init__(self) -> None:
        self.workers: list[_Worker] = []


_idle = _Idle()


async def run_sync(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn` in a greenlet and return its result, or raise what it raises."""
    workers = _idle.workers
    worker = workers.pop() if workers else _Worker()
    hub = getcurrent()
    worker.parent = hub
    worker.gr_context = hub.gr_context
    worker.job = partial(fn, *args, **kwargs)
    kind = worker.switch()
    while kind == _AWAIT:
        try:
            result = await worker.take()
        except BaseException as error:
            kind = worker.throw(error)
        else:
            kind = worker.switch(result)
            del result
    value = worker.take()
    if len(workers) < IDLE_WORKERS_MAX:
        workers.append(worker)
    else:
        worker.throw()  # ends now: parked, it would refer to itself until garbage is collected, anywhere
    if kind == _RAISE:
        try:
            raise value
        finally:
            del value  # or the exception would hold a frame that holds the exception
    return value  # type: ignore[no-any-return]


def await_sync(awaitable: Awaitable[T]) -> T:
    """Await from synchronous code that `run_sync` runs. Raises RuntimeError anywhere else."""
    worker = getcurrent()
    if not isinstance(worker, _Worker):
        close = getattr(awaitable, "close", None)
        if close is not None:
            close()  # it is not awaited here, so it must not warn that it never was
        raise RuntimeError("await_sync works only below run_sync; await it directly instead")
    assert worker.parent is not None
    worker.value = awaitable
    return worker.parent.switch(_AWAIT)  # type: ignore[no-any-return]


def in_greenlet() -> bool:
    """Whether `await_sync` works here."""
    return isinstance(getcurrent(), _Worker)
