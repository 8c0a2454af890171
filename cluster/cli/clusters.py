"""What `sextet cluster` does: `cluster.local.clusters` with words around it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any

import typer
from rich.markup import escape

from cluster.cli.client import cluster_status, running_layout, say_control_is_away
from cluster.cli.console import err, narrow_table, out, print_json, size
from cluster.cli.errors import CommandFailed
from cluster.cli.options import Past
from cluster.cli.report import cluster_state, status_report
from cluster.local import clusters
from cluster.local.files import tail_of
from cluster.local.folder import Folder
from cluster.local.layout import ClusterSpec, ClusterState, Layout
from cluster.local.ready import Readiness
from cluster.local.sizes import parse_size
from cluster.local.state import running_state
from engine.errors import SextetError
from engine.net.pb import control_pb2 as pb

DROP_S = 15.0
"""How long storage nodes may take to drop a deleted cluster's segments; the rest is done without us."""

POLL_S = 0.2
LOG_LINES = 5


def create(
    folder: Folder,
    name: str,
    *,
    readers: int,
    port: int | None,
    max_storage: str,
    past: Past,
) -> None:
    """Raises NotRunning, ConfigError, CommandFailed."""
    layout = running_layout(folder)
    begun = (c for c in layout.clusters if c.state is ClusterState.CREATING and not c.restoring)
    if any(c.name == name for c in begun):
        out.print(f"going on with {name} as an earlier command has begun it")
    began = time.monotonic()
    try:
        spec = clusters.create_cluster(
            folder,
            name,
            readers=readers,
            port=port,
            max_storage_bytes=parse_size(max_storage),
            retention_days=past.retention_days,
            backtrack_window_s=past.window_s,
        )
    except Readiness as error:
        advice = f"the same command again, or `sextet cluster delete {name}`"
        raise not_ready(folder, error, advice) from error
    announce(spec, f"is created after {time.monotonic() - began:.1f} s")


def start(folder: Folder, name: str) -> None:
    """Raises NotRunning, ConfigError, CommandFailed."""
    running_layout(folder)
    began = time.monotonic()
    try:
        spec = clusters.start_cluster(folder, name)
    except Readiness as error:
        raise not_ready(folder, error, "the same command again") from error
    announce(spec, f"answers SQL after {time.monotonic() - began:.1f} s")


def stop(folder: Folder, name: str) -> None:
    """Raises NotRunning, ConfigError, StillRunning."""
    running_layout(folder)
    if not clusters.stop_cluster(folder, name):
        say_control_is_away()
    out.print(f"cluster {name} is stopped; `sextet cluster start {name}` brings it back")


def delete(folder: Folder, name: str, *, yes: bool) -> None:
    """Raises NotRunning, ConfigError, CommandFailed, StillRunning, Abort."""
    layout = running_layout(folder)
    layout.without_cluster(name)
    if not yes:
        _confirm(name)
    volume = _volume(folder, layout, name)
    clusters.delete_cluster(folder, name)
    out.print(f"cluster {name} is deleted")
    if volume is not None:
        _report_segments(folder, volume)


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise CommandFailed(f"this deletes {name} and its data for good; say so with --yes")
    if not typer.confirm(f"Delete cluster {name} and its data for good?"):
        raise CommandFailed("nothing is deleted")


def announce(spec: ClusterSpec, how: str) -> None:
    """Say so, and where it is."""
    out.print(f"cluster [bold]{spec.name}[/bold] {how}")
    out.print(f"  writer  {spec.writer_url}", soft_wrap=True)
    out.print(f"  reader  {spec.reader_url}", soft_wrap=True)


def not_ready(folder: Folder, error: Readiness, advice: str) -> CommandFailed:
    """With the end of the log of who is to blame."""
    path = folder.log(error.component)
    lines = "\n".join(tail_of(path, LOG_LINES))
    return CommandFailed(f"{error}; see {path}, then {advice}\n{lines}".rstrip())


# -- deleted segments


def _volume(folder: Folder, layout: Layout, name: str) -> int | None:
    """None if nobody says, as when an earlier command got further than that."""
    try:
        return asyncio.run(cluster_status(folder, layout, name)).cluster.volume
    except SextetError:
        return None


def _report_segments(folder: Folder, volume: int) -> None:
    """Wait a while for storage nodes to drop what they kept; say who has not."""
    deadline = time.monotonic() + DROP_S
    while True:
        keeping, silent = _who_keeps(folder, volume)
        if not keeping or time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    for names, why in ((keeping, "still has"), (silent, "does not answer and may have")):
        if names:
            err.print(
                f"[yellow]![/yellow] {', '.join(names)} {why} segments of it; they are dropped as soon as "
                "that is possible",
                soft_wrap=True,
            )


def _who_keeps(folder: Folder, volume: int) -> tuple[list[str], list[str]]:
    """Storage nodes that say that they have segments of it, and those that say nothing."""
    layout = running_layout(folder)
    try:
        status = asyncio.run(cluster_status(folder, layout, layout.clusters[0].name))
    except SextetError:
        return [], [node.name for node in layout.storage]
    return keepers(status, volume)


def keepers(status: pb.ClusterStatusReply, volume: int) -> tuple[list[str], list[str]]:
    """As the storage nodes' own reports have it. Pure."""
    keeping = [r.node for r in status.storage if any(s.volume == volume for s in r.status.segments)]
    silent = [r.node for r in status.storage if not r.HasField("status")]
    return keeping, silent


# -- list


def list_clusters(folder: Folder, *, as_json: bool) -> None:
    """Print them, in the order in which they were made. Raises NotRunning."""
    rows = asyncio.run(gather_clusters(folder))
    if as_json:
        print_json(rows)
        return
    table = narrow_table(
        ("name", "state", "instances", "size", "limit", "endpoints"), right=("size",)
    )
    for row in rows:
        used = row["volume"]["bytes"]
        color = {"available": "green", "stopped": "dim"}.get(row["state"], "red")
        table.add_row(
            *(row["name"], f"[{color}]{escape(row['state'])}[/{color}]", str(row["instances"])),
            *("–" if used is None else size(used), size(row["volume"]["max_bytes"])),
            f"{row['endpoints']['writer']}\n{row['endpoints']['reader']}",
        )
    out.print(table)


async def gather_clusters(folder: Folder) -> Sequence[dict[str, Any]]:
    """What `--json` prints. Raises NotRunning."""
    layout = running_layout(folder)
    return await asyncio.gather(*(_row(folder, layout, spec) for spec in layout.clusters))


async def _row(folder: Folder, layout: Layout, spec: ClusterSpec) -> dict[str, Any]:
    """The keys are an interface: add, but do not rename."""
    supervisor = running_state(folder)
    left = bool(clusters.processes_of(folder, spec))
    volume: dict[str, Any] = {"id": None, "bytes": None, "max_bytes": spec.max_storage_bytes}
    state = cluster_state(spec, None, left=left)
    if spec.state is not ClusterState.DELETING:  # the catalog may have no such cluster any more
        try:
            status = await cluster_status(folder, layout, spec.name)
        except SextetError as error:
            err.print(f"[yellow]![/yellow] {spec.name}: {escape(str(error))}", soft_wrap=True)
        else:
            report = status_report(spec, status, supervisor, left=left)
            volume = {key: report["volume"][key] for key in volume}
            state = report["state"]
    return {
        "name": spec.name,
        "state": state,
        "endpoints": {"writer": spec.writer_url, "reader": spec.reader_url},
        "instances": len(spec.instances),
        "volume": volume,
    }
