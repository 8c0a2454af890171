"""`sextet instance`: adding and removing instances, and seeing it done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from cluster.cli.client import cluster_status, running_layout, say_control_is_away
from cluster.cli.console import out, print_json
from cluster.cli.errors import CommandFailed
from cluster.cli.status import gather, instance_table
from cluster.local import scaling
from cluster.local.folder import Folder
from cluster.local.layout import Layout
from cluster.local.state import running_state
from engine.errors import SextetError

START_S = 30.0
"""How long a new instance may take until it serves; about a second is usual."""

STOP_S = 20.0
POLL_S = 0.05


def add_instance(
    folder: Folder, cluster: str, *, az: str | None, tier: int, size: str, name: str | None
) -> str:
    """Returns the new one's name once it is available. Raises NotRunning, ConfigError, CommandFailed."""
    running_layout(folder)
    began = time.monotonic()
    new, adopted = asyncio.run(
        scaling.add_instance(folder, cluster, az=az, tier=tier, size=size, name=name)
    )
    if not adopted:
        say_control_is_away()
    _until(
        lambda: _state_of(folder, cluster, new.name) == "available",
        START_S,
        f"{new.name} is added but does not serve after {START_S:.0f} s; see {folder.log(new.name)}",
    )
    took = time.monotonic() - began
    out.print(
        f"{new.name} serves reads in {new.az}, tier {new.tier}, {new.size}, after {took:.1f} s"
    )
    return new.name


def remove_instance(folder: Folder, name: str, *, force: bool) -> None:
    """Returns once its process has ended. Raises NotRunning, ConfigError, CommandFailed."""
    running_layout(folder)

    async def allow(layout: Layout) -> None:
        if not force:
            await _refuse_the_writer(folder, layout, name)

    if not asyncio.run(scaling.remove_instance(folder, name, allow=allow)):
        say_control_is_away()
    _until(
        lambda: _has_ended(folder, name),
        STOP_S,
        f"{name} is removed but its process does not end; see `sextet status`",
    )
    out.print(f"{name} is removed")


async def _refuse_the_writer(folder: Folder, layout: Layout, name: str) -> None:
    cluster = next(c.name for c in layout.clusters if any(i.name == name for i in c.instances))
    status = await cluster_status(folder, layout, cluster)
    if any(i.name == name and i.role == "writer" for i in status.cluster.instances):
        raise CommandFailed(
            f"{name} is the writer of {cluster}; with --force it is removed all the same, and the "
            "replica of the lowest tier becomes writer"
        )


def list_instances(folder: Folder, cluster: str, *, as_json: bool) -> None:
    """Print them, by number. Raises NotRunning."""
    rows: list[dict[str, Any]] = asyncio.run(gather(folder, cluster))["instances"]
    if as_json:
        print_json(rows)
    else:
        out.print(instance_table(rows))


# -- telling, and seeing it done


def _state_of(folder: Folder, cluster: str, name: str) -> str:
    """ "" if nobody says."""
    try:
        status = asyncio.run(cluster_status(folder, running_layout(folder), cluster))
    except SextetError:
        if running_state(folder) is None:
            raise
        return ""  # the control plane is away for a moment
    found = (report for report in status.instances if report.view.name == name)
    return next((report.status.state for report in found), "")


def _has_ended(folder: Folder, name: str) -> bool:
    state = running_state(folder)
    return state is None or state.child(name) is None


def _until(true: Callable[[], bool], seconds: float, failure: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise CommandFailed(failure)
        time.sleep(POLL_S)
