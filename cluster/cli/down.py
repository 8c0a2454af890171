"""`sextet down`: returns once no process of the installation is left."""

from __future__ import annotations

import time

from cluster.cli.console import out
from cluster.local.folder import Folder
from cluster.local.stopping import stop_installation


def bring_down(folder: Folder) -> None:
    """Raises StillRunning if something survives even SIGKILL."""
    started_at = time.monotonic()
    if not folder.data.exists():
        out.print(f"there is no cluster in {folder.data}", markup=False, soft_wrap=True)
        return
    if not stop_installation(folder):
        out.print(f"no cluster is running in {folder.data}", markup=False, soft_wrap=True)
        return
    elapsed_s = time.monotonic() - started_at
    stays = f"the data stays in {folder.data}"
    out.print(f"stopped in {elapsed_s:.1f} s; {stays}", markup=False, soft_wrap=True)
