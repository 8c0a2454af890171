"""Processes by identity, not by number: a pid that the system has given away again is not ours."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class ProcessId:
    """`started` is the kernel's start time in clock ticks since boot, `boot` names the boot."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The living process with this pid, None if there is none."""
        started = _start_ticks(pid)
        return None if started is None else cls(pid, started, boot_id())

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return self.boot == boot_id() and _start_ticks(self.pid) == self.started

    def send(self, number: signal.Signals) -> bool:
        """Send a signal if it is still the same process; whether it was."""
        if not self.alive:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _start_ticks(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def wait_until_gone(processes: Collection[ProcessId], timeout: float) -> list[ProcessId]:
    """Those that still run after at most `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while left := [p for p in processes if p.alive]:
        if time.monotonic() >= deadline:
            return left
        time.sleep(POLL_S)
    return []


def end_all(processes: Collection[ProcessId], grace: float) -> list[ProcessId]:
    """SIGTERM, and SIGKILL after `grace` seconds. Returns whoever survived even that."""
    for process in processes:
        process.send(signal.SIGTERM)
    for process in wait_until_gone(processes, grace):
        process.send(signal.SIGKILL)
    return wait_until_gone(processes, grace)
