"""Stopping an installation: whatever runs, and whatever a killed supervisor has left behind."""

from __future__ import annotations

import signal
import time

from cluster.local.folder import Folder
from cluster.local.processes import ProcessId, end_all
from cluster.local.state import is_locked, load_state
from cluster.local.supervisor import STOP_GRACE_S
from engine.errors import SextetError

STOP_S = 4 * 2 * STOP_GRACE_S
"""The longest a supervisor may take: four stages, each with a grace before and after SIGKILL."""

POLL_S = 0.02


class StillRunning(SextetError):
    """Something survived even SIGKILL."""


def stop_installation(folder: Folder) -> bool:
    """Stop everything, in order if the supervisor lives. Whether anything was running.

    Raises StillRunning, naming who holds on.
    """
    living = _living(folder)
    if not living and not is_locked(folder):
        return False
    state = load_state(folder)
    if state is not None and state.process.send(signal.SIGTERM):
        _wait_until_ended(folder, living, state.process)
    left = end_all(sorted(living | _living(folder), key=lambda p: p.pid), STOP_GRACE_S)
    if left or not _unlocked(folder):
        pids = ", ".join(str(process.pid) for process in left)
        raise StillRunning(
            f"still running: {pids or 'somebody'}; find who holds it with `fuser {folder.lock}`"
        )
    return True


def _living(folder: Folder) -> set[ProcessId]:
    """Every process that the supervisor knows and that is still the same one."""
    state = load_state(folder)
    return set(state.living()) if state is not None else set()


def _wait_until_ended(folder: Folder, seen: set[ProcessId], supervisor: ProcessId) -> None:
    """Until the supervisor has ended, collecting in `seen` whomever it started meanwhile."""
    deadline = time.monotonic() + STOP_S
    while supervisor.alive and time.monotonic() < deadline:
        seen |= _living(folder)
        time.sleep(POLL_S)


def _unlocked(folder: Folder) -> bool:
    """Whether the last process has let go; it takes a moment after it has ended."""
    deadline = time.monotonic() + STOP_GRACE_S
    while is_locked(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
