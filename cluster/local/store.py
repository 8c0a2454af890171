"""Object stores by name: where archives are kept."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ConfigError
from engine.net.objects import FolderStore


def store_name(text: str) -> str:
    """What the layout keeps for what a user gave: an absolute path. Raises ConfigError."""
    if "://" in text:
        raise ConfigError(f"{text} cannot be an object store: give a folder")
    return str(Path(text).expanduser().absolute())


def make_store(name: str) -> None:
    """Have it there from now on; no harm if it is. Raises Unavailable if it cannot be made."""
    FolderStore(Path(name)).close()


def open_store(name: str) -> FolderStore:
    """Raises Unavailable if it is not there. It is never made on the way: a mount point without its disk
    looks like a folder where nothing was ever stored."""
    return FolderStore(Path(name), make=False)
