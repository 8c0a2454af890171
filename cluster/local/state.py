"""What the supervisor tells the world about itself: DATA/run/supervisor.json, and the lock.

The lock is a `flock` on DATA/run/lock. The supervisor's children inherit it, so it is free exactly
when no process of the installation is left: nobody can start a second storage node over a folder
whose first one is still writing.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import asdict, dataclass
from typing import Any

from cluster.local.files import read_json, write_json
from cluster.local.folder import Folder
from cluster.local.processes import ProcessId
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ChildState:
    """One component. `process` is None while it waits to be started again."""

    name: str
    process: ProcessId | None
    restarts: int
    exit_status: int | None
    """Of the last life: negative is a signal's number; None if it never ended."""


@dataclass(frozen=True, slots=True)
class SupervisorState:
    process: ProcessId
    stopping: bool
    children: tuple[ChildState, ...]

    def child(self, name: str) -> ChildState | None:
        return next((c for c in self.children if c.name == name), None)

    def living(self) -> list[ProcessId]:
        """Every process of it that still runs, the supervisor first."""
        known = [self.process, *(c.process for c in self.children if c.process is not None)]
        return [process for process in known if process.alive]


def save_state(folder: Folder, state: SupervisorState) -> None:
    write_json(folder.supervisor_state, asdict(state))


def load_state(folder: Folder) -> SupervisorState | None:
    """What the last supervisor wrote, None if there never was one. It may have died since."""
    value = read_json(folder.supervisor_state)
    if value is None:
        return None
    try:
        children = tuple(
            ChildState(**{**child, "process": _process(child["process"])})
            for child in value["children"]
        )
        return SupervisorState(ProcessId(**value["process"]), bool(value["stopping"]), children)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder.supervisor_state} is damaged: {error}") from error


def _process(value: dict[str, Any] | None) -> ProcessId | None:
    return None if value is None else ProcessId(**value)


def running_state(folder: Folder) -> SupervisorState | None:
    """The supervisor's state if it is alive."""
    state = load_state(folder)
    return state if state is not None and state.process.alive else None


def take_lock(folder: Folder) -> int | None:
    """An inheritable handle that holds the installation's lock, None if somebody else does."""
    handle = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    os.set_inheritable(handle, True)
    return handle


def is_locked(folder: Folder) -> bool:
    """Whether any process of the installation is left."""
    if not folder.lock.exists():
        return False
    handle = take_lock(folder)
    if handle is None:
        return True
    os.close(handle)
    return False
