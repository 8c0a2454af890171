"""Signals as something to wait for, with a timeout: the heart of a loop without threads."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Collection
from types import FrameType


class SignalQueue:
    """Collects the given signals of this process; `wait` returns those that came.

    Only one may exist in a process, in its main thread.
    """

    def __init__(self, numbers: Collection[signal.Signals]) -> None:
        self._pending: set[signal.Signals] = set()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._pending.add(signal.Signals(number))

    def wait(self, timeout: float | None) -> set[signal.Signals]:
        """Signals since the last call; waits for one up to `timeout` seconds (None: for ever)."""
        if not self._pending:
            select.select([self._reader], [], [], timeout)
        try:
            while self._reader.recv(4096):
                pass
        except BlockingIOError:
            pass  # drained
        came, self._pending = self._pending, set()
        return came
