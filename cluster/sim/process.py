"""Simulated processes: what can be started, killed, paused, and started again.

A *life* is one run of a process, from start to death. All that node code does belongs to a life: its
tasks and callbacks by a context variable (`cluster.sim.loop`), its ports because they were made for it.
A dead life's callbacks never run and its ports refuse everything, so nothing it was in the middle of has
an effect any more. What survives is what was given to the process and not to a life: its disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, NoReturn

from cluster.sim.loop import LIFE, SimLoop
from engine.errors import SextetError


class ProcessDied(BaseException):
    """Raised in the code of a process that has just died, so that it gets no further.

    Not an Exception: no handler of node code may take it for an error and go on.
    """


class Life:
    """One run of a process."""

    def __init__(self, loop: SimLoop, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.runs = True
        self.paused_at = 0.0
        """When it was stopped last, if it is stopped."""
        self.alive = True
        self.reason = ""
        """Why it died."""
        self.on_death: list[Callable[[], None]] = []
        """Called once, in order, in no life's context."""
        self.on_error: list[Callable[[str, BaseException], None]] = []
        """Called with whatever a task ended with or a handler raised that nobody expects."""
        self._loop = loop
        self._held: list[asyncio.Handle] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._context: Context = copy_context()
        self._context.run(LIFE.set, self)

    def __repr__(self) -> str:
        return f"{self.name}#{self.number}"

    # -- what belongs to it

    def spawn(self, coro: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """A task that is this life's."""
        return self._loop.create_task(coro, name=name, context=self._context.copy())

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self._loop.call_soon(callback, *args, context=self._context)

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any
    ) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback, *args, context=self._context)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(self._ended, context=self._context)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        # Asking marks it as seen: whoever waits for the task decides; nobody may, like a real task.
        if not task.cancelled() and (error := task.exception()) is not None:
            self.raised(task.get_name(), error)

    def raised(self, where: str, error: BaseException) -> None:
        """Code of this life let `error` out. Real nodes survive some bugs by starting again, or by
        answering an error: here somebody is told all the same."""
        if not isinstance(error, SextetError | ProcessDied | asyncio.CancelledError):
            for callback in self.on_error:
                callback(where, error)

    def hold(self, handle: asyncio.Handle) -> None:
        if self.alive:
            self._held.append(handle)

    # -- what may happen to it

    def check(self) -> None:
        """Ports call this first. Raises ProcessDied."""
        if not self.alive:
            raise ProcessDied(f"{self!r} is dead: {self.reason}")

    def pause(self) -> None:
        """As SIGSTOP."""
        if self.runs:
            self.paused_at = self._loop.time()
        self.runs = False

    def resume(self) -> None:
        """As SIGCONT: everything held goes on, in its order."""
        if self.alive and not self.runs:
            self.runs = True
            held, self._held = self._held, []
            self._loop.requeue(held)

    def die(self, reason: str) -> None:
        """As SIGKILL. Code of this life that is on the stack right now goes on to its next port."""
        if not self.alive:
            return
        self.alive = self.runs = False
        self.reason = reason
        self._held.clear()
        for callback in self.on_death:
            callback()

    def end(self, reason: str) -> NoReturn:
        """It ends itself (Runtime.stop_node)."""
        self.die(reason)
        raise ProcessDied(reason)

    def bury(self) -> None:
        """After the run: unwind what its tasks are in the middle of, with all ports refusing.

        Python would do the same whenever it collects them, and complain.
        """
        self.alive = self.runs = False
        tasks, self._tasks = list(self._tasks), {}
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            _unwind(task.get_coro(), ProcessDied(f"{self!r} is buried"))


UNWIND_MAX = 100


def _unwind(coro: Any, error: BaseException) -> None:
    """Throw `error` at whatever the coroutine awaits, as often as its `finally` awaits again."""
    if not isinstance(coro, Coroutine) or getattr(coro, "cr_running", False):
        return
    for _ in range(UNWIND_MAX):
        try:
            coro.throw(error)
        except StopIteration:
            return
        except BaseException:
            if getattr(coro, "cr_frame", None) is None:
                return
