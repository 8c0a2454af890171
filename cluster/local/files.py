"""Small files that others read while we write them: whole old or whole new, never half."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import ConfigError

LOCK_POLL_S = 0.05


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Replace `path` atomically. `durable`: it also survives a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make creations and renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """The file's value, None if there is no such file. Raises ConfigError if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


def tail_of(path: Path, lines: int = 20, bytes_max: int = 64 * 1024) -> list[str]:
    """The last lines of a log, empty if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - bytes_max))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]


@contextmanager
def in_turn(path: Path, wait_s: float, busy: str) -> Iterator[None]:
    """Hold the lock file `path`, in turn with other processes; let go however we end.

    Raises ConfigError saying `busy` if another holds it for `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    with path.open("a") as file:  # closed, and so unlocked
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(busy) from None
            time.sleep(LOCK_POLL_S)
        yield
