"""Changing the layout of a running installation: one change at a time, and the supervisor told of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.faults.directory import follow
from cluster.local.files import in_turn
from cluster.local.folder import Folder
from cluster.local.layout import Layout, load, save
from cluster.local.state import running_state
from engine.errors import ConfigError

LOCK_WAIT_S = 60.0


@contextmanager
def layout_turn(folder: Folder, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """The right to change the layout, in turn with other processes. Raises ConfigError after `wait_s`."""
    busy = (
        f"another command has been changing the installation for {wait_s:.0f} s; "
        f"find it with `fuser {folder.layout_lock}`"
    )
    with in_turn(folder.layout_lock, wait_s, busy):
        yield


def change_layout(folder: Folder, change: Callable[[Layout], Layout]) -> Layout:
    """Save what `change` makes of the layout, durably; the caller has the turn. Raises ConfigError."""
    old = load(folder.data)
    if old is None:
        raise ConfigError(f"{folder.data} has no installation; make one with `sextet up`")
    new = change(old)
    follow(folder, new)  # before: if it raises, nothing has changed
    save(folder.data, new)
    return new


def tell_supervisor(folder: Folder) -> bool:
    """It starts what is new in the layout and stops what is gone; False if there is none."""
    state = running_state(folder)
    return state is not None and state.process.send(signal.SIGHUP)
