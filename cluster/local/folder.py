"""Where everything of a local installation lies below its data folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Folder:
    """The data folder of `--data`, absolute."""

    data: Path

    @classmethod
    def at(cls, data: Path) -> Folder:
        return cls(data.expanduser().absolute())

    @property
    def run(self) -> Path:
        """Sockets and state of the running processes; worth nothing once they have ended."""
        return self.data / "run"

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    @property
    def layout_lock(self) -> Path:
        """Held by whoever changes the layout of a running installation."""
        return self.run / "layout.lock"

    def restore_lock(self, cluster: str) -> Path:
        """Held by whoever restores a cluster of that name."""
        return self.run / f"restore-{cluster}.lock"

    @property
    def supervisor_state(self) -> Path:
        return self.run / "supervisor.json"

    @property
    def catalog(self) -> Path:
        return self.data / "control" / "catalog.db"

    @property
    def history(self) -> Path:
        """The SQL shell's."""
        return self.data / "history"

    @property
    def faults(self) -> Path:
        """The file of active faults (`engine.faults.file`)."""
        return self.data / "faults.json"

    @property
    def archive(self) -> Path:
        """The object store of those who name none."""
        return self.data / "archive"

    def archive_state(self, cluster: str) -> Path:
        """What the cluster's archiver says of itself."""
        return self.run / f"archive-{cluster}.json"

    def log(self, component: str) -> Path:
        return self.data / "logs" / f"{component}.log"

    def storage(self, node: str) -> Path:
        return self.data / node

    def endpoint_view(self, cluster: str) -> Path:
        return self.run / f"endpoint-{cluster}-view.json"

    def make(self) -> None:
        """Create the folders that every component may rely on. Raises ConfigError if one is unusable."""
        for folder in (self.data, self.run, self.data / "logs", self.catalog.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"the folder {folder} cannot be made ({error.strerror}); choose another --data"
                ) from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise ConfigError(f"the folder {folder} cannot be written; choose another --data")


def socket_name(instance: str) -> str:
    """An instance's Unix socket, relative to the data folder.

    Relative on purpose: a socket's path may have 107 bytes at most, and every process of an
    installation has the data folder as its working directory.
    """
    return f"run/{instance}.sock"
