"""`sextet storage limit`: how large a cluster's volume may become, shown and changed while it runs.

The layout has the wish; the catalog takes it over, and tells the writer. So whatever fails or is
interrupted after the layout was saved comes true later, as with instances.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from cluster.cli.client import adopt_layout, cluster_status, running_layout
from cluster.cli.console import err, out, print_json, size
from cluster.cli.errors import CommandFailed
from cluster.local.change import change_layout, layout_turn
from cluster.local.folder import Folder
from cluster.local.layout import Layout
from cluster.local.sizes import parse_size
from engine.net.pb import control_pb2 as pb
from engine.types import PAGE_SIZE
from engine.volume.geometry import first_page, max_pages_for

LEARN_S = 10.0
"""How long the writer may take to hear of it; it is told at once, and asks every 15 seconds anyway."""

POLL_S = 0.05


def show_limit(folder: Folder, cluster: str, *, as_json: bool) -> None:
    """Print the maximum, and what the protection groups take of it. Raises NotRunning."""
    status = asyncio.run(cluster_status(folder, running_layout(folder), cluster))
    limit = status.cluster.max_pages * PAGE_SIZE
    used = _used_pages(status) * PAGE_SIZE
    if as_json:
        print_json({"max_bytes": limit, "groups_bytes": used})
        return
    groups = len(status.cluster.memberships)
    out.print(f"the limit is {size(limit)}; {groups} protection groups have {size(used)}")


def set_limit(folder: Folder, cluster: str, text: str) -> None:
    """Returns once the writer keeps to it. Raises NotRunning, ConfigError, CommandFailed."""
    wanted = parse_size(text)
    pages = max_pages_for(wanted)
    with layout_turn(folder):
        status = asyncio.run(cluster_status(folder, running_layout(folder), cluster))
        _refuse_too_little(status, text, wanted)
        _save(folder, cluster, wanted)
        if not adopt_layout(folder):
            return
        status = asyncio.run(cluster_status(folder, running_layout(folder), cluster))
        if status.cluster.max_pages != pages:  # a group came first, and has its room
            now = status.cluster.max_pages * PAGE_SIZE
            _save(folder, cluster, now)
            raise CommandFailed(f"the volume has grown meanwhile; the limit is {size(now)}")
    if not _until(lambda: _writer_knows(folder, cluster, pages)):
        err.print("[yellow]![/yellow] no writer is open; the next one keeps to it")
    out.print(f"the limit is {size(pages * PAGE_SIZE)}")


def _save(folder: Folder, cluster: str, max_bytes: int) -> None:
    def changed(layout: Layout) -> Layout:
        return layout.with_cluster(replace(layout.cluster(cluster), max_storage_bytes=max_bytes))

    change_layout(folder, changed)


def _used_pages(status: pb.ClusterStatusReply) -> int:
    """A protection group is in use once it exists: its six segments are there, full or empty."""
    return first_page(len(status.cluster.memberships))


def _refuse_too_little(status: pb.ClusterStatusReply, text: str, wanted: int) -> None:
    used = _used_pages(status)
    if max_pages_for(wanted) < used:
        raise CommandFailed(
            f"{text} is less than what is in use: the volume has {len(status.cluster.memberships)} "
            f"protection groups, {size(used * PAGE_SIZE)}, and none is ever given back"
        )


def _writer_knows(folder: Folder, cluster: str, pages: int) -> bool:
    status = asyncio.run(cluster_status(folder, running_layout(folder), cluster))
    return any(
        report.view.role == "writer" and report.status.max_pages == pages
        for report in status.instances
    )


def _until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LEARN_S
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
