"""`sextet status`: tables for people, the report of `cluster.cli.report` for programs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from cluster.cli.client import cluster_status, oldest_readable, running_layout
from cluster.cli.console import days, narrow_table, out, print_json, size
from cluster.cli.errors import EXIT_NOT_RUNNING, NotRunning
from cluster.cli.report import down_report, has_writer, scl_against, scl_range, status_report
from cluster.local.archiving import load_archive_state
from cluster.local.backtracking import window_text
from cluster.local.clusters import processes_of
from cluster.local.folder import Folder
from cluster.local.layout import ClusterState
from cluster.local.state import running_state
from engine.archive.restore import shown

GROUPS_SHOWN = 12
"""More protection groups than that are summed up, unless all are asked for."""

STARTING = "starting"

Row = Mapping[str, Any]


def show_status(folder: Folder, cluster: str, *, as_json: bool, every_group: bool) -> None:
    """Print it. Raises NotRunning; with `as_json` that is printed as JSON as well."""
    try:
        report = asyncio.run(gather(folder, cluster))
    except NotRunning as error:
        if not as_json:
            raise
        print_json(down_report(str(folder.data), str(error)))
        sys.exit(EXIT_NOT_RUNNING)
    if as_json:
        print_json(report)
        return
    _print_head(report)
    out.print("\n[bold]instances[/bold]")
    out.print(instance_table(report["instances"]))
    out.print("\n[bold]storage nodes[/bold]")
    out.print(_storage(report["storage"]))
    _print_groups(report, every_group=every_group)
    _print_errors(report)


async def gather(folder: Folder, cluster: str) -> dict[str, Any]:
    """The report of a cluster in a running installation. Raises NotRunning, ConfigError."""
    layout = running_layout(folder)
    spec = layout.cluster(cluster)
    if spec.state is ClusterState.DELETING:
        layout.running_cluster(cluster)  # raises, saying what to do
    status = await cluster_status(folder, layout, cluster)
    left = bool(processes_of(folder, spec))
    return status_report(
        spec,
        status,
        running_state(folder),
        left=left,
        archive=load_archive_state(folder, cluster),
        oldest=await oldest_readable(layout, cluster) if has_writer(status) else None,
        now_us=time.time_ns() // 1000,
    )


def _print_head(report: Row) -> None:
    volume, redo, endpoints = report["volume"], report["redo"], report["endpoints"]
    out.print(f"[bold]cluster {report['cluster']}[/bold]  {_state(report['state'], 'available')}")
    out.print(f"  writer  {endpoints['writer']}", soft_wrap=True)
    out.print(f"  reader  {endpoints['reader']}", soft_wrap=True)
    out.print(
        f"  volume  epoch {volume['epoch']}, VCL {_text(volume['vcl'])}, VDL {_text(volume['vdl'])}, "
        f"{size(volume['bytes'] or 0)} of {size(volume['max_bytes'])} in {volume['groups']} groups"
        f"{', [red]storage-full[/red]' if volume['state'] == 'storage-full' else ''}",
        soft_wrap=True,
    )
    if redo["redo_bytes"] is not None:
        out.print(
            f"  redo    {redo['commits']} commits, {redo['records']} records: "
            f"{size(redo['redo_bytes'])} shipped for {size(redo['dirty_page_bytes'])} of dirty pages",
            soft_wrap=True,
        )
    if report["past"] is not None:
        past = report["past"]
        out.print(f"  past    readable from {shown(past['time_us'])} on, LSN {past['lsn']}")
    _print_archive(report["archive"])
    if report["backtrack_window_s"]:
        window = window_text(report["backtrack_window_s"])
        out.print(f"  backtrack to any moment of the last {window}", soft_wrap=True)


def _print_archive(archive: Row) -> None:
    """What is lost if all storage nodes are, and what keeps the archive, if something does."""
    behind, state = archive["behind_s"], archive["state"]
    how = "nothing is archived yet" if behind is None else f"{behind:.1f} s behind"
    out.print(
        f"  archive {how}, kept for {days(archive['retention_days'])} as {archive['name']}"
        f"{'' if state == 'archiving' else f', {_state(state, STARTING)}'}",
        soft_wrap=True,
    )
    if archive["why"]:
        out.print(
            "  [red]![/red] archiving waits, and commits go on: storage nodes keep the log meanwhile, so "
            f"their disks fill up. Why: {escape(archive['why'])}",
            soft_wrap=True,
        )


def instance_table(rows: Sequence[Row]) -> Table:
    table = narrow_table(
        ("name", "role", "AZ", "tier", "size", "pid", "state", "read point", "lag ms", "clients"),
        right=("tier", "pid", "read point", "lag ms", "clients"),
    )
    for row in rows:
        table.add_row(
            *(row["name"], row["role"], row["az"], _text(row["tier"]), row["size"]),
            *(_text(row["pid"]), _state(row["state"], "available"), _text(row["read_lsn"])),
            *(_milliseconds(row["lag_ms"]), _text(row["connections"])),
        )
    return table


def _storage(rows: Sequence[Row]) -> Table:
    table = narrow_table(
        ("name", "AZ", "pid", "port", "state", "segs", "SCL", "hot log"),
        right=("pid", "port", "segs", "SCL", "hot log"),
    )
    for row in rows:
        table.add_row(
            *(row["name"], row["az"], _text(row["pid"]), _text(row["port"])),
            *(_state(row["state"], "up"), str(len(row["segments"])), scl_range(row["segments"])),
            "–" if row["wal_bytes"] is None else size(row["wal_bytes"]),
        )
    return table


def _print_groups(report: Row, *, every_group: bool) -> None:
    groups = report["groups"]
    ailing = [g for g in groups if not (g["write_quorum"] and g["read_quorum"])]
    shown = groups
    if len(groups) > GROUPS_SHOWN and not every_group:
        shown = ailing[:GROUPS_SHOWN]
    out.print(
        "\n[bold]protection groups[/bold]   highest SCL, and on storage node 1, 2 …: "
        "= it, -n behind it, – none"
    )
    if shown:
        out.print(_groups(shown, report["storage"]))
    if len(shown) < len(groups):
        out.print(
            f"{len(groups)} protection groups: {len(groups) - len(ailing)} with write and read "
            f"quorum, {len(ailing)} without (--all shows each)"
        )


def _groups(groups: Sequence[Row], storage: Sequence[Row]) -> Table:
    """One line a group. Six LSNs side by side do not fit: each SCL is shown against the highest."""
    nodes = [row["name"] for row in storage]
    short = [name.rpartition("-")[2] for name in nodes]
    table = narrow_table(
        ("PG", "write", "read", "PGCL", "SCL", *short), right=("PG", "PGCL", "SCL", *short)
    )
    scls = {(row["name"], s["pg"]): s["scl"] for row in storage for s in row["segments"]}
    for group in groups:
        own = [scls.get((node, group["pg"])) for node in nodes]
        highest = max((scl for scl in own if scl is not None), default=None)
        table.add_row(
            *(str(group["pg"]), _quorum(group["write_quorum"]), _quorum(group["read_quorum"])),
            *(_text(group["pgcl"]), _text(highest)),
            *(scl_against(scl, highest) for scl in own),
        )
    return table


def _print_errors(report: Row) -> None:
    for row in [*report["instances"], *report["storage"]]:
        if row["error"]:
            out.print(f"[red]![/red] {row['name']}: {escape(row['error'])}", soft_wrap=True)


def _state(state: str, good: str) -> str:
    if state == "stopped":  # as somebody wanted it
        return f"[dim]{state}[/dim]"
    return f"[green]{state}[/green]" if state == good else f"[red]{state}[/red]"


def _quorum(holds: bool) -> str:
    return "[green]yes[/green]" if holds else "[red]no[/red]"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _text(value: object) -> str:
    return "–" if value is None else str(value)
