"""What an archiver says of itself once a second, for `sextet status`: DATA/run/archive-CLUSTER.json.

A file, so that nobody has to ask the object store, which may be slow or away, nor the archiver, which may
wait for it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from cluster.local.files import read_json, write_json
from cluster.local.folder import Folder
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """Times are Unix microseconds."""

    pid: int
    at_us: int
    """When it said so."""

    archive: str
    state: str
    """ "starting", "archiving" or "waiting"."""

    why: str = ""
    """What it waits for."""

    upto: int = 0
    """The last LSN that is in the archive."""

    known_us: int = 0
    """Everything that was committed until then is in the archive, 0 if nobody knows yet."""


def save_archive_state(folder: Folder, cluster: str, state: ArchiveState) -> None:
    """Raises OSError."""
    write_json(folder.archive_state(cluster), asdict(state))


def load_archive_state(folder: Folder, cluster: str) -> ArchiveState | None:
    """What the last archiver wrote, which may have ended since; None if there is nothing to be read."""
    try:
        value = read_json(folder.archive_state(cluster))
        return None if value is None else ArchiveState(**value)
    except (ConfigError, TypeError):
        return None
