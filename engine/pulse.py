"""How a supervisor knows that a process it started hangs: it is told, over a pipe, that it does not.

A process that lives may still do nothing: it was stopped, or its loop never comes round again. So every
node writes one byte a second into a pipe it was born with: for how many seconds it may be silent from
now on. Who breaks that promise hangs, and its supervisor ends it and starts it again. That is nobody
else's decision and asks nobody: the pipe is inherited, not connected.

Whoever has never said anything has promised nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

PULSE = "SEXTET_PULSE"
"""Environment variable: the descriptor of the pipe's end to write to, if there is a supervisor."""

BEAT_S = 1.0

PATIENCE_S = 10
"""What a node promises: ten beats. It is long, as a laptop may be very busy, and all who can be replaced
are long replaced by then (`cluster.control.health`)."""

LONG_PATIENCE_S = 60
"""The same of one that begins a long computation."""

PROMISE_MAX_S = 255  # a byte


class Pulse:
    """A process's own. `patience` gives the seconds it may be silent from now on, 0: no promise yet."""

    def __init__(self, fd: int | None, patience: Callable[[], int]) -> None:
        self.patience = patience
        self._fd = fd
        if fd is not None:
            os.set_blocking(fd, False)

    @classmethod
    def of_environment(
        cls, environment: Mapping[str, str], patience: Callable[[], int] = lambda: PATIENCE_S
    ) -> Pulse:
        """As the supervisor arranged it; without one, a pulse that nobody feels."""
        fd = environment.get(PULSE)
        return cls(int(fd) if fd is not None else None, patience)

    async def beat(self) -> None:
        """Until cancelled."""
        while self._fd is not None:
            self.say()
            await asyncio.sleep(BEAT_S)

    def say(self) -> None:
        """Promise now what `patience` says now."""
        promise = self.patience()
        if self._fd is None or promise <= 0:
            return
        try:
            os.write(self._fd, bytes([min(promise, PROMISE_MAX_S)]))
        except BlockingIOError:
            pass  # a supervisor that has not looked for hours will find beats enough
        except BrokenPipeError:
            self._fd = None  # it has gone, and so shall we (`engine.net.process`)


class Listener:
    """The supervisor's end: `look` now and then; a broken promise is a number of seconds.

    Only time in which we looked counts, `GAP_MAX_S` of it at most between two looks: after a suspend,
    or if the supervisor itself was stopped, everybody gets the time to speak again.
    """

    GAP_MAX_S = 2.0

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._promised: int | None = None
        self._silent_s = 0.0
        self._looked_at: float | None = None

    def born(self) -> None:
        """The process has its end now; ours of it would keep the pipe open."""
        os.close(self.writer)
        self.writer = -1

    def look(self, now: float) -> float | None:
        """Seconds of silence if that is longer than was promised, else None. `now`: monotonic seconds."""
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, self.GAP_MAX_S)
        self._looked_at = now
        heard = self._drain()
        if heard:
            self._promised, self._silent_s = heard[-1], 0.0
        else:
            self._silent_s += passed
        if self._promised is None or self._silent_s < self._promised:
            return None
        return self._silent_s

    def excuse(self) -> None:
        """Whoever was stopped on purpose has been silent for no time."""
        self._silent_s = 0.0

    def close(self) -> None:
        """After the process has ended."""
        for fd in (self._reader, self.writer):
            if fd >= 0:
                os.close(fd)
        self._reader = self.writer = -1

    def _drain(self) -> bytes:
        heard = b""
        while True:
            try:
                more = os.read(self._reader, 4096)
            except BlockingIOError:
                return heard
            if not more:
                return heard  # it has closed its end
            heard = more
