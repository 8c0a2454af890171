"""The fault file of an installation: whether faults are allowed, and who there is to have them."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import replace

from cluster.local.components import endpoint_name
from cluster.local.folder import Folder
from cluster.local.layout import Layout, address
from engine.faults.file import ActiveFault, FaultFile, Node, changing, read, write


def nodes_of(layout: Layout) -> tuple[Node, ...]:
    """Every process that is to run, in the order in which people think of them."""
    found = [Node(s.name, "storage", s.az, address(s.port)) for s in layout.storage]
    for cluster in layout.running:
        found += [Node(i.name, "instance", i.az, address(i.port)) for i in cluster.instances]
    found += [
        Node(endpoint_name(cluster.name), "endpoint", "", address(cluster.writer_port))
        for cluster in layout.running
    ]
    return (*found, Node("control", "control", "", layout.control_address))


def prepare(folder: Folder, layout: Layout, *, allow: bool | None) -> None:
    """Before an installation starts: no fault is left from its last life.

    Faults are allowed if `allow` says so; None leaves it as it was, and allows them the first time.
    """
    known = folder.faults.exists()
    old = read(folder.faults) if known else FaultFile(allowed=True)
    shutil.rmtree(folder.faults.with_suffix(""), ignore_errors=True)
    folder.faults.with_suffix("").mkdir(exist_ok=True)
    allowed = old.allowed if allow is None else allow
    write(
        folder.faults,
        replace(old, allowed=allowed, revision=old.revision + 1, nodes=nodes_of(layout), faults=()),
    )


def follow(folder: Folder, layout: Layout) -> None:
    """While an installation runs: who is new in its layout can have faults too, in SQL as well, where the
    file is all that is known. Who is gone takes its faults along: a new one may get its name.

    Raises ConfigError if the file is damaged.
    """
    old, nodes = read(folder.faults), nodes_of(layout)
    if old.allowed and old.nodes != nodes:
        gone = {node.name for node in old.nodes} - {node.name for node in nodes}
        with changing(folder.faults) as change:
            rests = (without(fault, gone) for fault in change.file.faults)
            left = tuple(fault for fault in rests if fault is not None)
            change.file = replace(change.file, nodes=nodes, faults=left)


def without(fault: ActiveFault, names: Collection[str]) -> ActiveFault | None:
    """The fault on the nodes that are left; None if it has no side left."""
    rest = replace(
        fault,
        names=tuple(n for n in fault.names if n not in names),
        peers=tuple(n for n in fault.peers if n not in names),
    )
    return rest if rest.names and bool(rest.peers) is bool(fault.peers) else None
