"""What a command tells its user when it cannot do what was asked, and its exit status."""

from __future__ import annotations

from cluster.local.folder import Folder
from engine.errors import SextetError

EXIT_FAILED = 1
EXIT_NOT_RUNNING = 3


class CommandFailed(SextetError):
    """One line that says what is wrong and what to do. Exit status 1."""


class NotRunning(SextetError):
    """The cluster is down. Exit status 3."""


def not_running(folder: Folder) -> NotRunning:
    return NotRunning(f"no cluster is running in {folder.data}; start it with `sextet up`")
