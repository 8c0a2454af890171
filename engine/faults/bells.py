"""How processes learn at once that the faults' file has changed: whoever changes it rings.

Each process that goes by the file has a named pipe next to what it says of itself, DATA/faults/NODE.bell,
and listens. Looking at the file twenty times a second in a dozen processes was a sixth of what an idle
installation costs. A pipe needs no number of a process, which might be another's by now, and to ring
where nobody listens does nothing. Who hears nothing finds out all the same, a little later (`watch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

SUFFIX = ".bell"


class Bell:
    """`heard` is called in the running loop after each ring; several may be one."""

    def __init__(self, path: Path, heard: Callable[[], None]) -> None:
        """Raises OSError where there can be no named pipe."""
        path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # of an earlier life
            os.mkfifo(path, 0o600)
        # For writing too, or it would read as ended whenever nobody rings.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise OSError(f"{path} is no named pipe")
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._rung)

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 4096)
        self._heard()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


def take_down(folder: Path) -> None:
    """All bells of the folder, when nobody listens any more: a stopped installation is files and folders
    only, which any program can copy."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        path.unlink(missing_ok=True)


def ring(folder: Path) -> None:
    """All bells of the folder."""
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        if not name.endswith(SUFFIX):
            continue
        try:
            fd = os.open(folder / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # nobody listens (ENXIO)
        try:
            os.write(fd, b"!")
        except OSError as error:  # it is full of rings already, or has just gone
            log.debug("%s does not ring: %s", name, error)
        finally:
            os.close(fd)
