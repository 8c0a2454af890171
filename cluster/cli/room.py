"""A folder for a command that needs room for a while, as large as a database.

A command that is killed leaves it behind. It was locked as long as that command lived, so the next one that
needs room sees whose it no longer is, and removes it.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

PREFIX = "room-"
LOCK = "lock"

NEW_S = 60.0
"""One without a lock is being made, unless it is older."""


@contextmanager
def room(above: Path | None) -> Iterator[Path]:
    """A new folder below `above`, or where the system has room for such, until the block ends."""
    if above is not None:
        for left in sorted(above.glob(f"{PREFIX}*")):
            _remove_if_left(left)
    with TemporaryDirectory(prefix=PREFIX, dir=above, ignore_cleanup_errors=True) as name:
        own = Path(name)
        with (own / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield own


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):  # its owner, or another command, removes it now
        try:
            with (folder / LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
        except FileNotFoundError:
            if time.time() - folder.stat().st_mtime > NEW_S:
                shutil.rmtree(folder)
