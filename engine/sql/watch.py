"""One call of a session while it runs: it can be interrupted, and it has a time limit.

An interruption cancels the task at whatever it awaits; from a greenlet that is `await_sync`, so the
CancelledError unwinds through SQLite, which rolls back. On the way out it becomes the SqlError that
the interruption was made with. A cancellation that came from elsewhere stays one.

There is one timer per session, not one per statement: it looks, when it fires, whether the statement
running then is late, and sleeps again. A statement costs two assignments.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from engine.errors import QueryCanceled, SqlError
from engine.sql.errors import SessionBusy
from engine.sql.settings import SessionSettings


class Watch:
    """A context manager, used again for every call of its session.

    A task may enter it again inside: then the outermost one's time limit holds for all of it, and
    what happens in between can be interrupted too.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self.interruption: SqlError | None = None
        self._settings = settings
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._depth = 0
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None

    @property
    def running(self) -> bool:
        return self._task is not None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if self._task is not None:
            if self._task is not task:
                raise SessionBusy("another task is using this session; it serves one at a time")
            self._depth += 1
            return
        assert task is not None, "sessions are used from tasks"
        self._task = task
        self._cancelling = task.cancelling()
        self.interruption = None
        timeout_s = self._settings.statement_timeout_s
        if timeout_s > 0:
            self._deadline = asyncio.get_running_loop().time() + timeout_s
            if self._timer is None or self._timer.when() > self._deadline:
                self._arm(self._deadline)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _tb: TracebackType | None,
    ) -> None:
        task, interruption = self._task, self.interruption
        assert task is not None
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        if self._depth:
            self._depth -= 1
            if not cancelled:
                return  # an interruption, if any, is still on its way
        else:
            self._end()
        if interruption is not None:
            self.interruption = None  # told here, so it is not told again further out
            ours = task.uncancel() <= self._cancelling
            if ours and cancelled:
                raise interruption from None

    def _end(self) -> None:
        self._task = None
        self._deadline = None
        if self._idle is not None:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None

    def interrupt(self, error: SqlError) -> None:
        """End the running call with `error`. Nothing happens if none runs."""
        if self._task is not None and self.interruption is None:
            self.interruption = error
            self._task.cancel()

    async def wait_idle(self) -> None:
        """Until no call runs."""
        while self._task is not None:
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._fired)

    def _fired(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._deadline > asyncio.get_running_loop().time():
            self._arm(self._deadline)
        else:
            self.interrupt(QueryCanceled("canceling statement due to statement timeout"))
