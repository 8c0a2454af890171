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


def open_store(name: str) -> FolderStore:
    """Raises Unavailable if it cannot be made or read."""
    return FolderStore(Path(name))
