"""`sextet storage`: the fleet that keeps the volumes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from rich.markup import escape

from cluster.cli.client import STATUS_TIMEOUT_S, channel_to, cluster_status, running_layout
from cluster.cli.console import err, narrow_table, out, print_json
from cluster.cli.errors import EXIT_FAILED, CommandFailed, not_running
from cluster.cli.verify import GroupVerdict, verify_group
from cluster.local.change import change_layout, layout_turn, tell_supervisor
from cluster.local.files import tail_of
from cluster.local.folder import Folder
from cluster.local.layout import AZS, ClusterState, Layout, StorageSpec
from cluster.local.ports import free_ports
from engine.errors import SextetError
from engine.net.methods import DRAIN_STORAGE
from engine.net.pb import control_pb2 as pb
from engine.volume.fencing import membership_from_pb

UP_WAIT_S = 30.0
DRAIN_WAIT_S = 600.0
POLL_S = 0.2


# -- list


def list_storage(folder: Folder, cluster: str, *, as_json: bool) -> None:
    """Print nodes and replacements. Raises NotRunning, CommandFailed."""
    status = asyncio.run(cluster_status(folder, running_layout(folder), cluster))
    report = fleet_report(status)
    if as_json:
        print_json(report)
        return
    nodes = narrow_table(
        ("name", "AZ", "state", "segments", "joining", "incarnation"), right=("segments", "joining")
    )
    for row in report["nodes"]:
        color = "green" if row["state"] == "up" else "red" if row["state"] == "down" else "yellow"
        nodes.add_row(
            *(row["name"], row["az"], f"[{color}]{escape(row['state'])}[/{color}]"),
            *(str(row["segments"]), str(row["joining"]), row["incarnation"] or "–"),
        )
    out.print(nodes)
    if not report["replacements"]:
        out.print("no segment is being replaced")
        return
    table = narrow_table(("PG", "old", "new", "behind by"), right=("PG", "behind by"))
    for row in report["replacements"]:
        behind = "–" if row["behind"] is None else f"{row['behind']} LSNs"
        old = f"{row['old']}, its lost disk" if row["old"] == row["new"] else row["old"]
        table.add_row(str(row["pg"]), old, row["new"], behind)
    out.print(table)


def fleet_report(status: pb.ClusterStatusReply) -> dict[str, Any]:
    """What `--json` prints. The keys are an interface: add, but do not rename."""
    volume = status.cluster.volume
    memberships = [membership_from_pb(m) for m in status.cluster.memberships]
    changes = [(m.pg, m.replacing) for m in memberships if m.replacing is not None]
    scls = {
        (report.node, s.pg): s.scl
        for report in status.storage
        for s in report.status.segments
        if s.volume == volume
    }
    highest = {
        m.pg: max((scls.get((v.node, m.pg), 0) for v in m.voters), default=0) for m in memberships
    }
    return {
        "nodes": [
            {
                "name": report.node,
                "az": report.az,
                "state": _state(report),
                "segments": sum(node == report.node for m in memberships for node in _nodes(m)),
                "joining": sum(change.new.node == report.node for _, change in changes),
                "held": sum(s.volume == volume for s in report.status.segments),
                "incarnation": report.status.incarnation or None,
            }
            for report in status.storage
        ],
        "replacements": [
            {
                "pg": pg,
                "old": change.old.node,
                "new": change.new.node,
                "scl": scls.get((change.new.node, pg)),
                "behind": None
                if (change.new.node, pg) not in scls
                else highest[pg] - scls[change.new.node, pg],
            }
            for pg, change in changes
        ],
    }


def _nodes(membership: Any) -> list[str]:
    return [m.node for m in membership.members]


def _state(report: pb.StorageReport) -> str:
    if not report.HasField("status"):
        return "down"
    if report.drained:
        return "drained"
    return "repairing" if report.error else report.status.state


# -- add


def add_storage(folder: Folder, cluster: str, az: str | None) -> None:
    """Start one more node and wait until it serves. Raises NotRunning, CommandFailed."""
    with layout_turn(folder):
        layout = running_layout(folder)
        node = _new_node(layout, az)
        change_layout(folder, lambda current: current.with_storage(node))
        if not tell_supervisor(folder):
            raise not_running(folder)

    def serves(status: pb.ClusterStatusReply) -> bool:
        return any(r.node == node.name and r.HasField("status") for r in status.storage)

    if not _wait(folder, layout, cluster, serves, UP_WAIT_S):
        raise CommandFailed(
            f"{node.name} does not serve after {UP_WAIT_S:.0f} s:\n"
            + "\n".join(tail_of(folder.log(node.name), 5))
        )
    out.print(f"{node.name} serves in {node.az}; new protection groups use it")


def _new_node(layout: Layout, az: str | None) -> StorageSpec:
    azs = sorted({*AZS, *(node.az for node in layout.storage)})
    if az is None:
        az = min(azs, key=lambda name: sum(node.az == name for node in layout.storage))
    elif az not in azs:
        raise CommandFailed(f"there is no AZ {az}; there are {', '.join(azs)}")
    number = 1 + max(int(node.name.rpartition("-")[2]) for node in layout.storage)
    port = next(free_ports(max(layout.ports), taken=layout.ports))
    return StorageSpec(f"storage-{number}", az, port)


def _wait(
    folder: Folder,
    layout: Layout,
    cluster: str,
    enough: Callable[[pb.ClusterStatusReply], bool],
    within_s: float,
) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if enough(asyncio.run(cluster_status(folder, layout, cluster))):
                return True
        except SextetError as error:
            err.print(f"[dim]{escape(str(error))}[/dim]")
        time.sleep(POLL_S)
    return False


# -- drain


def drain_storage(folder: Folder, cluster: str, node: str, *, undo: bool, wait: bool) -> None:
    """Raises NotRunning, ConfigError for an unknown node or too few others, CommandFailed."""
    layout = running_layout(folder)
    layout.cluster(cluster)
    layout.storage_node(node)
    asyncio.run(_drain(layout, node, undo=undo))
    if undo:
        out.print(f"{node} may keep segments again")
        return
    if not wait:
        out.print(f"others take over what {node} keeps; see `sextet storage list`")
        return

    def empty(status: pb.ClusterStatusReply) -> bool:
        row = next(n for n in fleet_report(status)["nodes"] if n["name"] == node)
        return not row["segments"] and not row["held"]

    # Of every cluster, one after the other: what is gone does not come back.
    kept = [c.name for c in layout.clusters if c.state is not ClusterState.DELETING]
    others = [name for name in kept if name != cluster]
    for name in (cluster, *others):
        if not _wait(folder, layout, name, empty, DRAIN_WAIT_S):
            raise CommandFailed(
                f"{node} still keeps segments; see `sextet storage list --cluster {name}`"
            )
    out.print(f"{node} keeps nothing any more")


async def _drain(layout: Layout, node: str, *, undo: bool) -> None:
    async with channel_to(layout.control_address) as control:
        request = pb.DrainStorageRequest(node=node, undo=undo)
        await control.call(DRAIN_STORAGE, request, timeout=STATUS_TIMEOUT_S)


# -- verify


def verify_storage(folder: Folder, cluster: str, *, as_json: bool) -> int:
    """Compare all copies; the exit status. Raises NotRunning."""
    verdicts = asyncio.run(compare_copies(folder, cluster))
    equal = all(verdict.equal for verdict in verdicts)
    if as_json:
        print_json({"equal": equal, "groups": [verdict_to_json(v) for v in verdicts]})
        return 0 if equal else EXIT_FAILED
    table = narrow_table(("PG", "LSN", "copies", "pages", "records", "hash"), right=("PG", "LSN"))
    for verdict in verdicts:
        hashes = sorted({d.value[:16] for d in verdict.digests.values()})
        one = next(iter(verdict.digests.values()), None)
        table.add_row(
            *(str(verdict.pg), str(verdict.lsn), str(len(verdict.digests))),
            *(str(one.pages) if one else "–", str(one.records) if one else "–"),
            f"[green]{hashes[0]}[/green]" if verdict.equal else f"[red]{' '.join(hashes)}[/red]",
        )
    out.print(table)
    for verdict in verdicts:
        for node in sorted(verdict.errors):
            out.print(f"[red]![/red] group {verdict.pg}, {node}: {escape(verdict.errors[node])}")
    out.print("all copies are equal" if equal else "[red]not all copies are equal[/red]")
    return 0 if equal else EXIT_FAILED


async def compare_copies(folder: Folder, cluster: str) -> list[GroupVerdict]:
    """One verdict for each protection group, in order. Raises NotRunning."""
    status = await cluster_status(folder, running_layout(folder), cluster)
    view = status.cluster
    return [
        await verify_group(view.volume, view.volume_epoch, membership_from_pb(m))
        for m in sorted(view.memberships, key=lambda m: m.pg)
    ]


def verdict_to_json(verdict: GroupVerdict) -> dict[str, Any]:
    return {
        "pg": verdict.pg,
        "lsn": verdict.lsn,
        "equal": verdict.equal,
        "copies": {
            node: {"hash": d.value, "pages": d.pages, "records": d.records}
            for node, d in sorted(verdict.digests.items())
        },
        "errors": dict(sorted(verdict.errors.items())),
    }
