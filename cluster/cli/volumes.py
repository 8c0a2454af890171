"""`sextet volume show`: pages of every cluster's volume, and the tree of clones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape

from cluster.cli.client import channel_to, running_layout
from cluster.cli.console import err, narrow_table, out, print_json, size
from cluster.cli.errors import NotRunning
from cluster.local.folder import Folder
from engine.archive.restore import shown
from engine.errors import Unavailable
from engine.net.methods import LIST_VOLUMES
from engine.net.pb import control_pb2 as pb
from engine.types import PAGE_SIZE

LIST_S = 10.0

Row = dict[str, Any]


def show_volumes(folder: Folder, cluster: str | None, *, as_json: bool) -> None:
    """Print them all, or one. Raises NotRunning, ConfigError."""
    layout = running_layout(folder)
    if cluster is not None:
        layout.cluster(cluster)
    rows = volume_rows(asyncio.run(_ask(folder, layout.control_address)).volumes)
    shown_rows = [row for row in rows if cluster is None or row["cluster"] == cluster]
    if as_json:
        print_json(shown_rows)
        return
    _print(shown_rows, tree=cluster is None)


async def _ask(folder: Folder, address: str) -> pb.ListVolumesReply:
    try:
        async with channel_to(address) as control:
            return await control.call(LIST_VOLUMES, pb.ListVolumesRequest(), timeout=LIST_S)
    except Unavailable as error:
        raise NotRunning(
            f"the control plane does not answer ({error}); look at {folder.log('control')}"
        ) from error


def volume_rows(volumes: Sequence[pb.VolumeInfo]) -> list[Row]:
    """What `--json` prints: parents before their clones. The keys are an interface: add, but do not rename.

    `depth` counts the clones above it in the tree. `own_pages` have a version that was written for this
    volume, `shared_pages` are all an ancestor's, `own_stored_bytes` are those of all copies together.
    """
    return [_row(info, depth) for info, depth in _tree(volumes)]


def _tree(volumes: Sequence[pb.VolumeInfo]) -> Iterator[tuple[pb.VolumeInfo, int]]:
    there = {info.volume for info in volumes}
    children: dict[int, list[pb.VolumeInfo]] = {}
    for info in volumes:
        above = info.parent if info.parent in there else 0
        children.setdefault(above, []).append(info)

    def below(parent: int, depth: int) -> Iterator[tuple[pb.VolumeInfo, int]]:
        for info in children.get(parent, []):
            yield info, depth
            yield from below(info.volume, depth + 1)

    yield from below(0, 0)


def _row(info: pb.VolumeInfo, depth: int) -> Row:
    clone = None
    if info.parent:
        clone = {
            "source": info.source,
            "volume": info.parent,
            "lsn": info.fork.lsn if info.HasField("fork") else None,
            "time": shown(info.fork.time_us) if info.HasField("fork") else None,
            "full_copy": bool(info.copy),
        }
    return {
        "cluster": info.cluster or None,
        "volume": info.volume,
        "depth": depth,
        "made": info.made,
        "clone_of": clone,
        "pages": info.own_pages + info.shared_pages,
        "own_pages": info.own_pages,
        "shared_pages": info.shared_pages,
        "own_stored_bytes": info.own_stored * PAGE_SIZE,
        "groups": info.groups,
        "unknown_groups": info.unknown,
    }


def _print(rows: Sequence[Row], *, tree: bool) -> None:
    table = narrow_table(
        ("cluster", "volume", "size", "own", "shared", "clone of"),
        right=("volume", "size", "own", "shared"),
    )
    for row in rows:
        sizes = [size(row[key] * PAGE_SIZE) for key in ("pages", "own_pages", "shared_pages")]
        if row["cluster"] is None:
            sizes = ["–"] * 3
        table.add_row(_name(row, tree=tree), str(row["volume"]), *sizes, _origin(row))
    out.print(table)
    for row in rows:
        if row["unknown_groups"]:
            err.print(
                f"[yellow]![/yellow] of {row['unknown_groups']} groups of {escape(str(row['cluster']))} no "
                "storage node says what it has; they are not counted",
                soft_wrap=True,
            )


def _name(row: Row, *, tree: bool) -> str:
    name = escape(row["cluster"]) if row["cluster"] is not None else "[dim](deleted)[/dim]"
    return "  " * (row["depth"] if tree else 0) + name


def _origin(row: Row) -> str:
    clone = row["clone_of"]
    if clone is None:
        return ""
    source = escape(clone["source"])
    if clone["full_copy"]:
        return f"{source}, a full copy"
    if not row["made"]:
        return f"{source}, being made"
    if clone["lsn"] is None:
        return f"{source}, when it was empty"
    return f"{source} at LSN {clone['lsn']}, {clone['time']}"
